"""`xpcnn compare`: training runs beside each other."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from ..data.errors import one_line
from ..report import FinishedRun, comparison_report, comparison_text, write_page
from .options import add_command, check_writable, naming


def add_commands(commands: Any) -> None:
    """Add `compare` to the sub-parsers of a command line."""
    parser = add_command(commands, "compare", _compare, "print a table of training runs, and draw their curves")
    parser.add_argument("runs", metavar="RUN", nargs="+", help="folder of a run; its data are not needed")
    text = "the page with the curves, replaced if it exists (compare.html)"
    parser.add_argument("--output", metavar="FILE", default="compare.html", help=text)


def _compare(args: argparse.Namespace) -> int:
    check_writable("--output", args.output)
    runs = [FinishedRun.read(path) for path in args.runs]
    print(comparison_text(runs))
    with naming(args.output):
        write_page(args.output, comparison_report(runs))
    print(f"curves in {one_line(args.output)}", file=sys.stderr)
    return 0
