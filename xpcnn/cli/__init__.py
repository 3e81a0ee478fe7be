"""The command line: each command is in a file of this package, which adds it to the parser by `add_commands`.

Exit codes: 0 done; 1 training diverged, or devices differ; 2 bad input, said in one line; 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from .. import __version__
from ..backend import CPU, DeviceUnavailableError
from ..data.errors import one_line
from ..training import TrainingDivergedError
from . import devices, parity, predict, train


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    args = _parser().parse_args(argv)
    try:
        if (threads := getattr(args, "threads", None)) is not None:
            CPU.threads = threads
        code: int = args.function(args)
        return code
    except KeyboardInterrupt:
        print("xpcnn: interrupted", file=sys.stderr)
        return 130
    except TrainingDivergedError as error:
        print(f"xpcnn: error: {one_line(error)}", file=sys.stderr)
        return 1
    except (ValueError, OSError, ImportError, DeviceUnavailableError) as error:
        print(f"xpcnn: error: {one_line(error)}", file=sys.stderr)
        return 2


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # One line, as for all bad input, instead of argparse's usage text before it.
        self.exit(2, f"{self.prog}: error: {one_line(message)}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="xpcnn", description="Convolutional networks on NumPy and CuPy.")
    parser.add_argument("--version", action="version", version=f"xpcnn {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in (train, predict, parity, devices):
        module.add_commands(commands)
    return parser
