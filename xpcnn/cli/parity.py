"""The parity commands: record a run, check it on another device or machine, or do both at once.

Exit codes: 0 the devices agree, or the run is recorded; 1 they differ; 2 nothing could be compared, with one line that
says why.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from ..data import DATASETS
from ..models import MODELS

if TYPE_CHECKING:
    from ..parity import Report, TraceConfig


def add_commands(commands: Any) -> None:
    """Add `parity` and its actions to the commands of a parser."""
    text = "show that two devices compute the same"
    parity = commands.add_parser("parity", help=text, description=text)
    parity.set_defaults(threads=None)
    actions = parity.add_subparsers(required=True, metavar="ACTION")

    def action(name: str, function: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        sub: argparse.ArgumentParser = actions.add_parser(name, help=text, description=text)
        sub.set_defaults(function=function)
        sub.add_argument("--data-dir", metavar="DIR", help="folder of the data sets")
        sub.add_argument("--threads", type=int, metavar="N", help="CPU threads (all cores)")
        return sub

    recording = action("record", _record, "train for some steps and write a trace, to repeat them elsewhere")
    _run_options(recording)
    recording.add_argument("--output", metavar="TRACE", required=True, help="new folder for the trace")
    recording.add_argument("--device", default="cpu", help='"cpu" (default), "cuda" or "cuda:<number>"')

    checking = action("check", _check, "repeat a recorded run on this machine and compare")
    checking.add_argument("trace", metavar="TRACE", help="folder written by `parity record`")
    checking.add_argument("--device", default="auto", help='"auto" (default), "cpu", "cuda" or "cuda:<number>"')
    _report_options(checking)

    both = action("run", _run, "record a run on the first device and check it on the others")
    _run_options(both)
    both.add_argument("--devices", default="cpu,cuda", metavar="A,B", help="devices to compare (cpu,cuda)")
    _report_options(both)


def _run_options(sub: argparse.ArgumentParser) -> None:
    from ..parity import TraceConfig

    default = TraceConfig()
    sub.add_argument("--model", help=f"one of {', '.join(sorted(MODELS))} ({default.model})")
    sub.add_argument("--data", help=f"one of {', '.join(DATASETS)} ({default.data})")
    sub.add_argument("--steps", type=int, metavar="N", help=f"training steps ({default.steps})")
    sub.add_argument("--batch-size", type=int, metavar="N", help=f"images in a step ({default.batch_size})")
    sub.add_argument("--optimizer", help=f"sgd, adam or adamw ({default.optimizer})")
    sub.add_argument("--lr", type=float, metavar="RATE", help="highest learning rate (sgd 0.05, adam and adamw 0.003)")
    sub.add_argument("--weight-decay", type=float, metavar="X", help=f"weight decay ({default.weight_decay:g})")
    sub.add_argument("--seed", type=int, metavar="N", help=f"seed of initial weights and batches ({default.seed})")
    sub.add_argument("--dtype", help=f"float32 or float64 ({default.dtype})")
    sub.add_argument("--limit", type=int, default=256, metavar="N", help="keep at most N MiB of arrays (256)")


def _report_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--tf32", action="store_true", help="allow the GPU the TF32 format in products")
    sub.add_argument("--json", action="store_true", help="print the report as JSON")
    sub.add_argument("--picture", metavar="FILE", help="draw the error of each step into a file")


def _config(args: argparse.Namespace) -> TraceConfig:
    from ..parity import TraceConfig

    names = [item.name for item in fields(TraceConfig)]
    return TraceConfig(**{name: getattr(args, name) for name in names if getattr(args, name) is not None})


def _record(args: argparse.Namespace) -> int:
    from ..parity import record

    trace = record(args.output, _config(args), args.device, data_dir=args.data_dir, limit=args.limit << 20)
    size = sum(file.stat().st_size for file in trace.path.iterdir())
    kept = sum(step["file"] is not None for step in trace.steps())
    print(
        f"recorded {trace.config.steps} steps of {trace.config.model} on {trace.config.data} ({args.device}) in "
        f"{trace.path}: every array of {kept} steps, {size / 1e6:.1f} MB"
    )
    print(f"on another machine: xpcnn parity check {trace.path} --device cuda")
    return 0


def _check(args: argparse.Namespace) -> int:
    from ..parity import check

    return _show([check(args.trace, args.device, data_dir=args.data_dir, tf32=args.tf32)], args)


def _run(args: argparse.Namespace) -> int:
    from ..parity import run

    devices = [name.strip() for name in args.devices.split(",") if name.strip()]
    return _show(run(_config(args), devices, data_dir=args.data_dir, limit=args.limit << 20, tf32=args.tf32), args)


def _show(reports: list[Report], args: argparse.Namespace) -> int:
    if args.json:
        print(json.dumps([report.to_dict() for report in reports], indent=1))
    else:
        print("\n\n".join(report.text() for report in reports))
    if args.picture:
        from .. import viz

        viz.error_growth(reports[-1].growth()).savefig(args.picture)
        print(f"picture in {args.picture}", file=sys.stderr)
    return 0 if all(report.agrees for report in reports) else 1
