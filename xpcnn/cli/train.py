"""`xpcnn train`: training, with its results kept in a folder."""

from __future__ import annotations

import argparse
import io
import itertools
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..training import ProgressBar, Run, RunConfig, Table, TrainingDivergedError, predict
from ..training.files import write_atomically
from ..training.run import read_config
from .options import add_command, add_data_dir, add_device, add_threads, add_training_options, given
from .signals import SignalsStop


def add_commands(commands: Any) -> None:
    """Add `train` to the sub-parsers of a command line."""
    usual = RunConfig()
    parser = add_command(commands, "train", _train, "train a network and keep the run in a folder")
    add_training_options(parser, usual)
    parser.add_argument("--epochs", type=int, metavar="N", help=f"passes over the training images ({usual.epochs})")
    parser.add_argument("--augment", action=argparse.BooleanOptionalAction, help="vary the training images (yes)")
    parser.add_argument("--output", metavar="DIR", help="folder for the run, a new one (runs/MODEL-DATA-NUMBER)")
    parser.add_argument("--resume", metavar="RUN", help="continue an interrupted run")
    parser.add_argument(
        "--checkpoint-minutes", type=float, default=5.0, metavar="X", help="time between checkpoints in an epoch (5)"
    )
    text = "if a checkpoint cannot be written: stop with exit code 3 (default), or warn and try again later"
    parser.add_argument("--on-save-error", choices=["stop", "continue"], default="stop", help=text)
    parser.add_argument("--progress", action="store_true", help="show the progress bar even if stderr is no terminal")
    add_data_dir(parser)
    add_device(parser)
    add_threads(parser)


def _train(args: argparse.Namespace) -> int:
    path, config = _resumed(args) if args.resume is not None else _new(args)
    bars = [ProgressBar()] if sys.stderr.isatty() or args.progress else []
    started = time.perf_counter()
    with SignalsStop() as signals:
        try:
            run = signals.run = Run(
                path,
                config,
                data_dir=args.data_dir,
                device=args.device,
                callbacks=[Table(), *bars],
                resume=args.resume is not None,
                checkpoint_minutes=args.checkpoint_minutes,
                on_save_error=args.on_save_error,
            )
            with run:
                _introduce(run)
                run.fit()
        except TrainingDivergedError as error:
            raise TrainingDivergedError(
                f"{error}; {run.last_checkpoint}, in {run.path}; a lower --lr may help"
            ) from error
        except KeyboardInterrupt:
            return _stopped(signals)
    if run.trainer.epoch < config.epochs:
        return _stopped(signals)
    if run.records:
        accuracy = run.records[-1]["test_accuracy"]
        print(f"test accuracy {accuracy:.2%}, {time.perf_counter() - started:.1f} s in all")
    _draw(run)
    print(f"saved in {run.path}")
    return 0


def _introduce(run: Run) -> None:
    model, config = run.trainer.model, run.config
    print(
        f"{config.model} ({model.count_parameters():,} parameters) on {config.data} "
        f"({len(run.loader.dataset):,} training and {len(run.test.dataset):,} test images), "
        f"device {model.device.name} ({model.device.description}), in {run.path}",
        flush=True,
    )


def _stopped(signals: SignalsStop) -> int:
    """Print how to continue after a signal, and return the exit code."""
    by = "" if signals.received in (None, signal.SIGINT) else f" by {signals.received.name}"
    then = "before training began"
    if (run := signals.run) is not None:
        then = f"{run.last_checkpoint}; continue with: xpcnn train --resume {shlex.quote(str(run.path))}"
    print(f"xpcnn: interrupted{by}; {then}", file=sys.stderr)
    return signals.exit_code


def _resumed(args: argparse.Namespace) -> tuple[Path, RunConfig]:
    """Return the folder and the configuration of the run to continue."""
    if options := [*given(args, RunConfig), *(["output"] if args.output is not None else [])]:
        names = ", ".join("--" + name.replace("_", "-") for name in options)
        raise ValueError(f"--resume takes the run's own options; leave out {names}")
    path = Path(args.resume)
    return path, read_config(path)


def _new(args: argparse.Namespace) -> tuple[Path | Iterator[Path], RunConfig]:
    """Return the folder, or the possible ones, and the configuration of a new run."""
    config = RunConfig(**given(args, RunConfig))
    if args.output is not None:
        return Path(args.output), config
    return (Path("runs", f"{config.model}-{config.data}-{i}") for i in itertools.count(1)), config


def _draw(run: Run) -> None:
    """Draw the curves of a run and some of its predictions into its folder."""
    try:
        from .. import viz

        figures = {"curves.png": viz.curves(run.records)}
    except ImportError:
        print("no pictures: pip install matplotlib for them", file=sys.stderr)
        return
    sample = run.test.dataset.subset(slice(32))
    probabilities = predict(run.trainer.model, sample.images, mean=sample.mean, std=sample.std)
    figures["predictions.png"] = viz.predictions(sample.images, sample.labels, probabilities, sample.classes)
    for name, figure in figures.items():
        picture = io.BytesIO()
        figure.savefig(picture, format="png")
        try:
            write_atomically(run.path / name, picture.getvalue())
        except OSError as error:  # the run itself is saved
            print(f"xpcnn: warning: {run.path / name} cannot be written: {error.strerror}", file=sys.stderr)
