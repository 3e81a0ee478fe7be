"""The command line: train, evaluate, predict, parity, devices.

Exit codes: 0 done; 1 training diverged, or devices differ; 2 bad input, said in one line; 130 interrupted.
"""

from __future__ import annotations

import argparse
import itertools
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from .. import __version__
from ..backend import CPU, DeviceUnavailableError, available_devices
from ..data import DATASETS, load_dataset
from ..data.formats.images import read_image
from ..models import MODELS
from ..training import ProgressBar, Table, TrainingDivergedError, evaluate, predict
from ..training.config import OPTIMIZERS, RunConfig
from ..training.run import Run, load_trained, read_config
from . import parity


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # One line, as for all bad input, instead of argparse's usage text before it.
        self.exit(2, f"{self.prog}: error: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    args = _parser().parse_args(argv)
    try:
        if args.threads is not None:
            CPU.threads = args.threads
        code: int = args.function(args)
        return code
    except KeyboardInterrupt:
        print("xpcnn: interrupted", file=sys.stderr)
        return 130
    except TrainingDivergedError as error:
        print(f"xpcnn: error: {error}", file=sys.stderr)
        return 1
    except (ValueError, OSError, ImportError, DeviceUnavailableError) as error:
        print(f"xpcnn: error: {error}", file=sys.stderr)
        return 2


def _train(args: argparse.Namespace) -> int:
    options = {
        item.name: getattr(args, item.name) for item in fields(RunConfig) if getattr(args, item.name) is not None
    }
    callbacks = [Table()] + ([ProgressBar()] if sys.stderr.isatty() or args.progress else [])
    if args.resume is not None:
        if options or args.output is not None:
            given = ", ".join(
                "--" + name.replace("_", "-") for name in [*options, *(["output"] if args.output else [])]
            )
            raise ValueError(f"--resume takes the run's own options; leave out {given}")
        path, config = Path(args.resume), read_config(Path(args.resume))
    else:
        config = RunConfig(**options)
        path = Path(args.output) if args.output is not None else _free_folder(f"{config.model}-{config.data}")
    started = time.perf_counter()
    run = Run(
        path,
        config,
        data_dir=args.data_dir,
        device=args.device,
        callbacks=callbacks,
        resume=args.resume is not None,
    )
    trainer = run.trainer
    print(
        f"{config.model} ({trainer.model.count_parameters():,} parameters) on {config.data} "
        f"({len(run.loader.dataset):,} training and {len(run.test.dataset):,} test images), {_describe(trainer.model)}"
    )
    with _InterruptStops(run):
        try:
            run.fit()
        except TrainingDivergedError as error:
            kept = f"the last good checkpoint is in {path}" if run.history.records else "no epoch was complete before"
            raise TrainingDivergedError(f"{error}; {kept}. A lower --lr may help") from error
    if trainer.interrupted:
        print(f"interrupted; go on with: xpcnn train --resume {path}", file=sys.stderr)
        return 130
    if run.history.records:
        accuracy = run.history.records[-1]["test_accuracy"]
        print(f"test accuracy {accuracy:.2%}, {time.perf_counter() - started:.1f} s in all")
    _draw(run)
    print(f"saved in {path}")
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    model, config = load_trained(args.run, args.device)
    test = load_dataset(args.data or config.data, "test", args.data_dir)
    expected = DATASETS[config.data].shape
    if test.images.shape[1:] != expected:
        raise ValueError(f"{test} has images (C, H, W) = {test.images.shape[1:]}, this network takes {expected}")
    result = evaluate(model, config.make_loader(test, train=False))
    print(
        f"{test.name}: accuracy {result.accuracy:.2%} ({result.correct:,} of {result.samples:,} test images), "
        f"loss {result.loss:.4f}, {_describe(model)}"
    )
    return 0


def _predict(args: argparse.Namespace) -> int:
    model, config = load_trained(args.run, args.device)
    info = DATASETS[config.data]
    # All files are read first: a bad one is to be said before any result.
    try:
        pictures = [read_image(path, info.shape, drawing=info.drawing) for path in args.images]
    except ImportError as error:
        raise ImportError(f"reading pictures needs Pillow: pip install pillow ({error})") from error
    probabilities = predict(model, np.stack([image for image, _ in pictures]), mean=info.mean, std=info.std)
    for path, (_, done), row in zip(args.images, pictures, probabilities, strict=True):
        best = int(row.argmax())
        print(f"{path}: {info.classes[best]} ({row[best]:.1%})  [{'; '.join(done)}]")
    return 0


def _devices(args: argparse.Namespace) -> int:
    devices, reason = available_devices()
    for device in devices:
        print(f"{device.name}: {device.description}")
    if reason:
        print(f"no {'further ' if len(devices) > 1 else ''}GPU: {reason}")
    return 0


def _describe(model: Any) -> str:
    return f"device {model.device.name} ({model.device.description})"


def _free_folder(name: str) -> Path:
    return next(path for i in itertools.count(1) if not (path := Path("runs") / f"{name}-{i}").exists())


class _InterruptStops:
    """Makes the first Ctrl-C end training after the step under way, and the second one end it at once."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def __enter__(self) -> None:
        self._before = signal.signal(signal.SIGINT, self._stop)

    def __exit__(self, *error: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _stop(self, *signal_and_frame: object) -> None:
        self._run.trainer.stop()
        signal.signal(signal.SIGINT, self._before)


def _draw(run: Run) -> None:
    try:
        from .. import viz

        figures = {"curves.png": viz.curves(run.history.records)}
    except ImportError:
        print("no pictures: pip install matplotlib for them", file=sys.stderr)
        return
    sample = run.test.dataset.subset(slice(32))
    probabilities = predict(run.trainer.model, sample.images, mean=sample.mean, std=sample.std)
    figures["predictions.png"] = viz.predictions(sample.images, sample.labels, probabilities, sample.classes)
    for name, figure in figures.items():
        figure.savefig(run.path / name)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="xpcnn", description="Convolutional networks on NumPy and CuPy.")
    parser.add_argument("--version", action="version", version=f"xpcnn {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    usual = RunConfig()

    def command(name: str, function: Any, help: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=help)
        sub.set_defaults(function=function, threads=None)
        return sub

    def compute_options(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--data-dir", metavar="DIR", help="folder of the data sets ($XPCNN_DATA, else the user's cache)"
        )
        sub.add_argument("--device", default="auto", help='"auto" (default), "cpu", "cuda" or "cuda:<number>"')
        sub.add_argument(
            "--threads", type=int, metavar="N", help="CPU threads (all cores); results do not depend on it"
        )

    train = command("train", _train, "train a network and keep the run in a folder")
    train.add_argument("--model", help=f"one of {', '.join(sorted(MODELS))} ({usual.model})")
    train.add_argument("--data", help=f"one of {', '.join(DATASETS)} ({usual.data})")
    train.add_argument("--epochs", type=int, metavar="N", help=f"passes over the training images ({usual.epochs})")
    train.add_argument("--batch-size", type=int, metavar="N", help=f"images in a step ({usual.batch_size})")
    train.add_argument("--optimizer", help=f"one of {', '.join(OPTIMIZERS)} ({usual.optimizer})")
    train.add_argument(
        "--lr", type=float, metavar="RATE", help="highest learning rate (sgd 0.05, adam and adamw 0.003)"
    )
    train.add_argument("--weight-decay", type=float, metavar="X", help=f"({usual.weight_decay})")
    train.add_argument("--augment", action=argparse.BooleanOptionalAction, help="vary the training images (yes)")
    train.add_argument("--seed", type=int, metavar="N", help=f"of weights, order and augmentation ({usual.seed})")
    train.add_argument("--output", metavar="DIR", help="folder for the run, a new one (runs/MODEL-DATA-NUMBER)")
    train.add_argument("--resume", metavar="RUN", help="go on with an interrupted run")
    train.add_argument("--progress", action="store_true", help="show the progress bar even if stderr is no terminal")
    compute_options(train)

    assess = command("evaluate", _evaluate, "measure a trained network on the test images")
    assess.add_argument("run", metavar="RUN", help="folder of a run, or a checkpoint file")
    assess.add_argument("--data", help="another data set of the same shape")
    compute_options(assess)

    classify = command("predict", _predict, "classify pictures")
    classify.add_argument("run", metavar="RUN", help="folder of a run, or a checkpoint file")
    classify.add_argument("images", metavar="IMAGE", nargs="+", help="PNG, JPEG or other picture, of any size")
    compute_options(classify)

    parity.add_commands(commands)
    command("devices", _devices, "list the devices that answer, and why others do not")
    return parser
