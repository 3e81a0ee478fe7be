"""The command line: each command is in a file of this package, which adds it to the parser by `add_commands`.

Exit codes, for all commands:

- 0: done; the devices agree
- 1: training diverged (`train`); the devices differ (`parity`)
- 2: bad input, or `parity` had nothing to compare, divergence while recording included
- 3: all else: no memory, no room on the disk, a bug
- 130, 143, 129: stopped by Ctrl-C, SIGTERM, SIGHUP

Whatever goes wrong is said in one line. With XPCNN_TRACEBACK=1 in the environment Python's traceback comes before it.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from .. import __version__
from ..backend import CPU, DeviceUnavailableError
from ..training import SaveError, TrainingDivergedError
from ..training.streams import TolerantStream
from . import devices, parity, predict, train

DIVERGED, BAD_INPUT, FAILED, INTERRUPTED = 1, 2, 3, 130

_EXIT_CODES = """\
exit codes: 0 done, or the devices agree; 1 training diverged, or the devices differ; 2 bad input, or nothing
could be compared; 3 all else (no memory, disk full, a bug); 130, 143, 129 stopped by Ctrl-C, SIGTERM, SIGHUP.
XPCNN_TRACEBACK=1 in the environment shows where an error came from."""

# What an OSError means by these is not in the user's input.
_FAILURES = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    with _tolerant_streams():
        args = _parser().parse_args(argv)
        try:
            if (threads := getattr(args, "threads", None)) is not None:
                CPU.threads = threads
            code: int = args.function(args)
            return code
        except KeyboardInterrupt:
            print("xpcnn: interrupted", file=sys.stderr)
            return INTERRUPTED
        except Exception as error:
            if os.environ.get("XPCNN_TRACEBACK"):
                traceback.print_exc()
            code, message = _judge(error)
            print(f"xpcnn: error: {' '.join(message.split())}", file=sys.stderr)
            return code


def _judge(error: Exception) -> tuple[int, str]:
    """Return the exit code for an error, and what is said of it."""
    if isinstance(error, TrainingDivergedError):
        return DIVERGED, str(error)
    if isinstance(error, MemoryError):
        return FAILED, f"{error or 'out of memory'}; a smaller --batch-size or network takes less"
    if isinstance(error, SaveError) or (isinstance(error, OSError) and error.errno in _FAILURES):
        return FAILED, str(error)
    if isinstance(error, ValueError | OSError | ImportError | DeviceUnavailableError):
        return BAD_INPUT, str(error)
    hint = "" if os.environ.get("XPCNN_TRACEBACK") else "; please run it again with XPCNN_TRACEBACK=1 and report that"
    return FAILED, f"a bug: {type(error).__name__}: {error}{hint}"


@contextlib.contextmanager
def _tolerant_streams() -> Iterator[None]:
    """Let the block print to stdout and stderr whatever their state: closed, full, or a pipe that nobody reads."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # Else the next file that is opened would get this number, and whatever is printed would end up in it.
            os.open(os.devnull, os.O_RDWR)
    streams: list[Any] = [TolerantStream(sys.stdout), TolerantStream(sys.stderr)]
    try:
        with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
            yield
    finally:
        for number, stream in enumerate(streams, 1):
            if not stream.flush():
                # Python flushes once more when it exits, and would fail then, with exit code 120.
                with contextlib.suppress(OSError):
                    os.dup2(os.open(os.devnull, os.O_RDWR), number)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # One line, as for all bad input, instead of argparse's usage text before it.
        self.exit(BAD_INPUT, f"{self.prog}: error: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="xpcnn",
        description="Convolutional networks on NumPy and CuPy.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"xpcnn {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in (train, predict, parity, devices):
        module.add_commands(commands)
    return parser
