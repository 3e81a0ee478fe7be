"""`xpcnn export`: a trained network as an ONNX file."""

from __future__ import annotations

import argparse
from typing import Any

from ..onnx import export
from ..training import load_trained
from .options import add_command, add_network, check_writable, naming, network_from


def add_commands(commands: Any) -> None:
    """Add `export` to the sub-parsers of a command line."""
    parser = add_command(commands, "export", _export, "write a trained network as an ONNX file")
    parser.add_argument("run", metavar="RUN", help="folder of a run, or a checkpoint file")
    parser.add_argument("file", metavar="FILE", help="the ONNX file, such as net.onnx; an existing one is replaced")
    text = "keep batch norms as they are, rather than as part of the convolutions before them"
    parser.add_argument("--no-fold", action="store_true", help=text)
    add_network(parser)


def _export(args: argparse.Namespace) -> int:
    check_writable("FILE", args.file)
    trained = load_trained(args.run, "cpu", network_from(args))
    with naming(args.file):
        difference = export(trained.model, args.file, trained.spec.shape, fold=not args.no_fold, spec=trained.spec)
    compared = "not compared, as onnxruntime is not installed"
    if difference is not None:
        compared = f"outputs in onnxruntime within {difference:.1e} of the largest"
    print(f"{args.file}: {len(trained.spec.classes)} classes, images {trained.spec.shape}; {compared}")
    return 0
