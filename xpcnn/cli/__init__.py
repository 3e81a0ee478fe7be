"""The command line: each command is in a file of this package, which adds it to the parser by `add_commands`.

Exit codes, for all commands:

- 0: done; the devices agree
- 1: training diverged (`train`); the devices differ (`parity`)
- 2: bad input, or `parity` had nothing to compare, also because training diverged while recording
- 3: everything else: out of memory, a GPU that failed, disk full, a bug
- 130, 143, 129: stopped by Ctrl-C, SIGTERM, SIGHUP

Where several processes were started by `mpiexec` and one of them fails, it ends the others with its code. Every error
is one line. With XPCNN_TRACEBACK=1 in the environment, Python's traceback is printed before it.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from typing import NoReturn

from .. import __version__
from ..backend import CPU, DeviceFailedError, DeviceUnavailableError, failures_named
from ..data.errors import one_line
from ..distributed import ALONE, Group, join, processes_started, rank_started
from ..training import SaveError, TrainingDivergedError
from ..training.streams import TolerantStream
from . import compare, devices, export, parity, predict, train

DIVERGED, BAD_INPUT, FAILED, INTERRUPTED = 1, 2, 3, 130

_EXIT_CODES = """\
exit codes: 0 done, or the devices agree; 1 training diverged, or the devices differ; 2 bad input, or nothing
could be compared; 3 everything else (out of memory, a GPU that failed, disk full, a bug); 130, 143, 129 stopped by
Ctrl-C, SIGTERM, SIGHUP. XPCNN_TRACEBACK=1 in the environment shows where an error came from."""

# Errors of the system, not of the user's input.
_FAILURES = {
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EFBIG", "EIO", "EROFS", "EMFILE", "ENFILE", "ENOMEM")
    if hasattr(errno, name)  # not every system has all of them
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Raises:
        KeyboardInterrupt: by Ctrl-C, except while `train` has a run to save.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    with _tolerant_streams() as stdout:
        parser = _parser()
        for argument in arguments:
            if argument.startswith("--") and argument.endswith("=--"):  # argparse fails with a traceback
                parser.error(f"argument {argument[:-3]}: expected one argument")
        args = parser.parse_args(arguments)
        args.group, args.arguments, code, message = ALONE, arguments, 0, ""
        try:
            args.group = _group(args)
            if (threads := getattr(args, "threads", None)) is not None:
                CPU.threads = threads
            with _warnings_on_one_line(), failures_named():
                code = args.function(args)
        except KeyboardInterrupt:
            if args.group.size > 1:
                args.group.abort(INTERRUPTED)
            raise
        except Exception as error:
            if os.environ.get("XPCNN_TRACEBACK"):
                traceback.print_exc()
            code, message = _judge(error)
            if isinstance(error, MemoryError) and "batch_size" in args:
                message += "; try a smaller --batch-size or network"
        _end(args.group, code, message)
        stdout.flush()
        if isinstance(stdout.error, OSError) and not isinstance(stdout.error, BrokenPipeError):
            print(f"xpcnn: warning: stdout cannot be written: {stdout.error.strerror}", file=sys.stderr)
            if code == 0 and args.command != "train":  # whose result is in files
                code = FAILED
        return code


def _group(args: argparse.Namespace) -> Group:
    """Return the group of processes that the command runs in.

    Raises:
        ValueError: if there are several, and the command runs in one only.
    """
    if "takes_group" in args:
        return join()
    if processes_started() > 1:
        raise ValueError(f"xpcnn {args.command} runs in one process: start it without mpiexec")
    return ALONE


def _end(group: Group, code: int, message: str) -> None:
    """Print the message of an error, once if all processes have met one; if some have not, end them."""
    all_end = code == 0 or group.all_fail()
    # The rank is that of `mpiexec`, as there is no group where mpi4py is absent.
    if message and not (all_end and rank_started()):
        where = "" if all_end else f"process {group.rank} of {group.size}: "
        print(f"xpcnn: error: {where}{_shortened(message)}", file=sys.stderr)
    if not all_end:
        group.abort(code)


def _judge(error: Exception) -> tuple[int, str]:
    """Return the exit code and the message for an error."""
    if isinstance(error, TrainingDivergedError):
        return DIVERGED, str(error)
    if isinstance(error, MemoryError):
        text = str(error)
        start = "" if text.startswith("out of memory") else "out of memory: " if text else "out of memory"
        return FAILED, start + text
    of_the_system = any(isinstance(e, OSError) and e.errno in _FAILURES for e in (error, error.__cause__))
    if of_the_system or isinstance(error, SaveError | DeviceFailedError):
        return FAILED, str(error)
    if isinstance(error, ValueError | OSError | ImportError | DeviceUnavailableError):
        return BAD_INPUT, str(error)
    hint = "" if os.environ.get("XPCNN_TRACEBACK") else "; please run it again with XPCNN_TRACEBACK=1 and report that"
    return FAILED, f"a bug: {type(error).__name__}: {error}{hint}"


def _shortened(message: str) -> str:
    text = one_line(message)
    return text if len(text) <= 1000 else f"{text[:600]} ... {text[-200:]}"  # it may repeat a long argument


@contextlib.contextmanager
def _tolerant_streams() -> Iterator[TolerantStream]:
    """Make stdout and stderr tolerant in the block, and yield stdout."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The stream is closed. Without this the next file to be opened would get its number, and any output.
            os.open(os.devnull, os.O_RDWR)
    stdout, stderr = TolerantStream(sys.stdout), TolerantStream(sys.stderr)
    try:
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            yield stdout
    finally:
        for stream in (stdout, stderr):
            stream.flush()
            if stream.error is not None:
                stream.discard_rest()


@contextlib.contextmanager
def _warnings_on_one_line() -> Iterator[None]:
    """Print warnings as errors are printed, without a place in the code."""
    with warnings.catch_warnings():
        warnings.filterwarnings("default", category=UserWarning, module=r"xpcnn\.")
        if rank_started():  # the first process shows them
            warnings.simplefilter("ignore")
        warnings.showwarning = lambda message, *place: print(
            f"xpcnn: warning: {_shortened(str(message))}", file=sys.stderr, flush=True
        )
        yield


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # One line, as for all bad input, without argparse's usage text before it; from one process if there are more.
        self.exit(BAD_INPUT, None if rank_started() else f"{self.prog}: error: {_shortened(message)}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="xpcnn",
        description="Convolutional networks on NumPy and CuPy.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"xpcnn {__version__}")
    commands = parser.add_subparsers(required=True, dest="command", metavar="COMMAND")
    for module in (train, predict, export, compare, parity, devices):
        module.add_commands(commands)
    return parser
