"""`xpcnn train`: training, with its results kept in a folder."""

from __future__ import annotations

import argparse
import itertools
import signal
import sys
import time
from pathlib import Path
from typing import Any

from ..training import ProgressBar, Run, RunConfig, Table, TrainingDivergedError, predict
from ..training.run import read_config
from .options import add_command, add_data_dir, add_device, add_threads, add_training_options, given


def add_commands(commands: Any) -> None:
    """Add `train` to the sub-parsers of a command line."""
    usual = RunConfig()
    parser = add_command(commands, "train", _train, "train a network and keep the run in a folder")
    add_training_options(parser, usual)
    parser.add_argument("--epochs", type=int, metavar="N", help=f"passes over the training images ({usual.epochs})")
    parser.add_argument("--augment", action=argparse.BooleanOptionalAction, help="vary the training images (yes)")
    parser.add_argument("--output", metavar="DIR", help="folder for the run, a new one (runs/MODEL-DATA-NUMBER)")
    parser.add_argument("--resume", metavar="RUN", help="go on with an interrupted run")
    parser.add_argument("--progress", action="store_true", help="show the progress bar even if stderr is no terminal")
    add_data_dir(parser)
    add_device(parser)
    add_threads(parser)


def _train(args: argparse.Namespace) -> int:
    path, config = _resumed(args) if args.resume is not None else _new(args)
    bars = [ProgressBar()] if sys.stderr.isatty() or args.progress else []
    started = time.perf_counter()
    run = Run(
        path,
        config,
        data_dir=args.data_dir,
        device=args.device,
        callbacks=[Table(), *bars],
        resume=args.resume is not None,
    )
    model = run.trainer.model
    print(
        f"{config.model} ({model.count_parameters():,} parameters) on {config.data} "
        f"({len(run.loader.dataset):,} training and {len(run.test.dataset):,} test images), "
        f"device {model.device.name} ({model.device.description})"
    )
    with _InterruptStops(run):
        try:
            run.fit()
        except TrainingDivergedError as error:
            kept = f"the last good checkpoint is in {path}" if run.history.records else "no epoch was complete before"
            raise TrainingDivergedError(f"{error}; {kept}. A lower --lr may help") from error
    if run.trainer.interrupted:
        print(f"interrupted; go on with: xpcnn train --resume {path}", file=sys.stderr)
        return 130
    if run.history.records:
        accuracy = run.history.records[-1]["test_accuracy"]
        print(f"test accuracy {accuracy:.2%}, {time.perf_counter() - started:.1f} s in all")
    _draw(run)
    print(f"saved in {path}")
    return 0


def _resumed(args: argparse.Namespace) -> tuple[Path, RunConfig]:
    """Return the folder and the configuration of the run to go on with."""
    if options := [*given(args, RunConfig), *(["output"] if args.output is not None else [])]:
        names = ", ".join("--" + name.replace("_", "-") for name in options)
        raise ValueError(f"--resume takes the run's own options; leave out {names}")
    path = Path(args.resume)
    return path, read_config(path)


def _new(args: argparse.Namespace) -> tuple[Path, RunConfig]:
    """Return the folder and the configuration of a new run."""
    config = RunConfig(**given(args, RunConfig))
    if args.output is not None:
        return Path(args.output), config
    names = (f"{config.model}-{config.data}-{i}" for i in itertools.count(1))
    return next(path for name in names if not (path := Path("runs", name)).exists()), config


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
    """Draw the curves of a run and some of its predictions into its folder."""
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
