"""The parity commands: record a run, check it on another device or machine, or do both at once.

Exit codes: 0 the devices agree, or the run is recorded; 1 they differ; for all else see `xpcnn.cli`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from ..distributed import mpiexec
from ..extras import needed_for
from ..parity import Report, TraceConfig, check, record, run
from ..report import parity_report, write_page
from .options import (
    add_command,
    add_data_dir,
    add_device,
    add_network,
    add_precision,
    add_threads,
    add_training_options,
    check_writable,
    config_from,
    naming,
    network_from,
)


def add_commands(commands: Any) -> None:
    """Add `parity` and its actions to the sub-parsers of a command line."""
    text = "show that two devices compute the same"
    parity = commands.add_parser("parity", help=text, description=text)
    actions = parity.add_subparsers(required=True, metavar="ACTION")

    recording = add_command(
        actions, "record", _record, "train for some steps and write a trace, to repeat them elsewhere"
    )
    _run_options(recording)
    recording.add_argument("--output", metavar="TRACE", required=True, help="new folder for the trace")
    add_device(recording, "cpu")

    checking = add_command(actions, "check", _check, "repeat a recorded run on this machine and compare")
    checking.add_argument("trace", metavar="TRACE", help="folder written by `parity record`")
    add_network(checking)
    checking.add_argument("--data", metavar="PATH", help="where the folder or .npz file is on this machine")
    add_device(checking)
    add_precision(checking, "that of the trace")
    _report_options(checking)

    both = add_command(actions, "run", _run, "record a run on the first device and check it on the others")
    _run_options(both)
    both.set_defaults(takes_group=True)
    both.add_argument("--devices", default="cpu,cuda", metavar="A,B", help="devices to compare (cpu,cuda)")
    text = "numbers of processes to compare, such as 1,2; needs mpi4py and MPI (1)"
    both.add_argument("--processes", default="1", metavar="A,B", help=text)
    _report_options(both)

    for parser in (recording, checking, both):
        add_data_dir(parser)
        add_threads(parser)


def _run_options(parser: argparse.ArgumentParser) -> None:
    default = TraceConfig()
    add_training_options(parser, default)
    parser.add_argument("--steps", type=int, metavar="N", help=f"training steps ({default.steps})")
    parser.add_argument("--mode", help=f"train or eval, what to compare ({default.mode})")
    parser.add_argument("--dtype", help=f"float32 or float64 ({default.dtype})")
    parser.add_argument("--limit", type=int, default=256, metavar="N", help="keep at most N MiB of arrays (256)")


def _report_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--json", action="store_true", help="print the report as JSON")
    sub.add_argument("--report", metavar="FILE", help="write the report as a page, replaced if it exists")
    sub.add_argument("--picture", metavar="FILE", help="draw the error of each step into a file")


def _record(args: argparse.Namespace) -> int:
    config = config_from(args, TraceConfig)
    trace = record(args.output, config, args.device, data_dir=args.data_dir, limit=_limit(args))
    size = sum(file.stat().st_size for file in trace.path.iterdir())
    kept = sum(step["file"] is not None for step in trace.steps())
    print(
        f"recorded {trace.config.steps} steps of {trace.config.model} on {trace.config.data} ({args.device}) in "
        f"{trace.path}: every array of {kept} steps, {size / 1e6:.1f} MB"
    )
    print(f"on another machine: xpcnn parity check {trace.path} --device cuda")
    return 0


def _check(args: argparse.Namespace) -> int:
    _check_files(args)
    options = {"data": args.data, "data_dir": args.data_dir, "precision": args.precision, "network": network_from(args)}
    return _show([check(args.trace, args.device, **options)], args)


def _run(args: argparse.Namespace) -> int:
    _check_files(args)
    devices = [name.strip() for name in args.devices.split(",") if name.strip()]
    processes = _numbers(args.processes)
    precision = args.precision
    if precision == "tf32":  # of the checks only
        args.precision = None
    config, limit = config_from(args, TraceConfig), _limit(args)
    if max(processes) > args.group.size == 1:  # again, in as many processes
        command = [mpiexec(), "-n", str(max(processes)), sys.executable, "-m", "xpcnn", *args.arguments]
        return subprocess.run(command, check=False).returncode
    options: dict[str, Any] = {"data_dir": args.data_dir, "limit": limit, "precision": precision}
    reports = run(config, devices, **options, processes=processes, group=args.group)
    code = _show(reports, args) if not args.group.rank else 0
    return args.group.share(bytes([code]))[0]  # type: ignore[no-any-return]


def _numbers(text: str) -> list[int]:
    """Return the numbers of `--processes`."""
    numbers = [number.strip() for number in text.split(",")]
    if not all(number.isascii() and number.isdecimal() and 0 < int(number) <= 1024 for number in numbers):
        raise ValueError(f"--processes: expected whole numbers such as 1,2, got {text}")
    return list(map(int, numbers))


def _limit(args: argparse.Namespace) -> int:
    """Return `--limit` in bytes."""
    if args.limit < 0:
        raise ValueError(f"--limit must be at least 0, got {args.limit}")
    mebibytes: int = args.limit
    return mebibytes << 20


def _check_files(args: argparse.Namespace) -> None:
    """Raise ValueError or ImportError if a file cannot be written, before the work for it."""
    if args.report is not None:
        check_writable("--report", args.report)
    if args.picture is not None:
        _check_picture(args.picture)


def _check_picture(name: str) -> None:
    with needed_for("--picture"):
        from matplotlib.figure import Figure

    path = Path(name)
    known = ["", *Figure().canvas.get_supported_filetypes()]  # "" becomes .png
    if path.suffix[1:].lower() not in known:
        raise ValueError(f"--picture {name}: expected a name that ends in{' .'.join(known)}")
    check_writable("--picture", name)


def _show(reports: list[Report], args: argparse.Namespace) -> int:
    if args.json:
        print(json.dumps([report.to_dict() for report in reports], indent=1))
    else:
        print("\n\n".join(report.text() for report in reports))
    if args.report is not None:
        with naming(args.report):
            write_page(args.report, parity_report(reports))
        print(f"report in {args.report}", file=sys.stderr)
    if args.picture is not None:
        from .. import viz

        with naming(args.picture):
            viz.error_growth(reports[-1].growth()).savefig(args.picture)
        print(f"picture in {args.picture}", file=sys.stderr)
    return 0 if all(report.agrees for report in reports) else 1
