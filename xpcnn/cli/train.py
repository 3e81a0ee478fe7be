"""`xpcnn train`: training, with its results kept in a folder."""

from __future__ import annotations

import argparse
import io
import itertools
import json
import re
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from .. import viz
from ..backend import DeviceFailedError, failures_named
from ..data.transforms import AUGMENTATIONS
from ..distributed import Group
from ..models.own import is_own
from ..report import REPORT, write_run_report
from ..training import ProgressBar, Run, RunConfig, Table, TrainingDivergedError
from ..training.files import write_atomically
from ..training.pretrained import PRETRAINED
from ..training.recipes import RECIPES
from ..training.run import read_config
from .options import (
    add_command,
    add_data_dir,
    add_device,
    add_threads,
    add_training_options,
    config_from,
    given,
    network_from,
)
from .signals import SignalsStop


def add_commands(commands: Any) -> None:
    """Add `train` to the sub-parsers of a command line."""
    usual = RunConfig()
    parser = add_command(commands, "train", _train, "train a network and keep the run in a folder")
    parser.set_defaults(takes_group=True)
    add_training_options(parser, usual)
    names = sorted({name for recipes in RECIPES.values() for name in recipes})
    text = (
        f"settings that suit a known data set, in place of the defaults shown here; options given beside it win: "
        f"{', '.join(names)} or none ({names[0]}, for {', '.join(RECIPES)}, unless --model is given)"
    )
    parser.add_argument("--recipe", metavar="NAME", help=text)
    parser.add_argument("--epochs", type=int, metavar="N", help=f"passes over the training images ({usual.epochs})")
    text = f"random changes of training images: none, or some of {','.join(AUGMENTATIONS)} (what suits the data set)"
    parser.add_argument("--augment", metavar="NAMES", help=text)
    text = "the part of each target that is spread evenly over all classes, such as 0.1 (0)"
    parser.add_argument("--label-smoothing", type=float, metavar="PART", help=text)
    text = "evaluate and save the exponential moving average of the weights, with this decay, such as 0.99 (no average)"
    parser.add_argument("--ema", type=float, metavar="DECAY", help=text)
    text = "weight the loss so that each class counts alike"
    parser.add_argument("--class-weights", action="store_true", default=None, help=text)
    text = "hold out this part of the training images, such as 0.1, and keep the weights of the best epoch on them (0)"
    parser.add_argument("--validation", type=float, metavar="PART", help=text)
    text = "stop after N epochs without a better one, with 0.1 held out if --validation is not given (train all epochs)"
    parser.add_argument("--patience", type=int, metavar="N", help=text)
    text = "with several processes: batch norm by each one's part of a batch, which is faster, not by all of it"
    parser.add_argument("--local-batch-norm", action="store_true", default=None, help=text)
    text = f"start from pretrained weights ({', '.join(PRETRAINED)}), with a new last layer"
    parser.add_argument("--pretrained", action="store_true", default=None, help=text)
    text = "train the last layer only; all others stay as they are (what --pretrained does)"
    parser.add_argument("--freeze-features", action=argparse.BooleanOptionalAction, help=text)
    text = "train this module, such as conv3 or blocks.12, and those after it; those before stay as they are"
    parser.add_argument("--train-from", metavar="MODULE", help=text)
    text = "start from a run's weights, with its --model, --size and --pretrained unless given"
    parser.add_argument("--init", metavar="RUN", help=text)
    parser.add_argument("--output", metavar="DIR", help="folder for the run, a new one (runs/MODEL-DATA-NUMBER)")
    parser.add_argument("--resume", metavar="RUN", help="continue an interrupted run")
    parser.add_argument(
        "--checkpoint-minutes", type=float, default=5.0, metavar="X", help="time between checkpoints in an epoch (5)"
    )
    text = "if a checkpoint cannot be written: stop with exit code 3 (default), or warn and try again later"
    parser.add_argument("--on-save-error", choices=["stop", "continue"], default="stop", help=text)
    parser.add_argument("--progress", action="store_true", help="show the progress bar even if stderr is no terminal")
    text = "on a GPU: record the training step once and replay it, which spares the host's time"
    parser.add_argument("--cuda-graph", action="store_true", help=text)
    add_data_dir(parser)
    add_device(parser)
    add_threads(parser)


def _train(args: argparse.Namespace) -> int:
    path, config = _resumed(args) if args.resume is not None else _new(args)
    first = args.group.rank == 0  # the others compute, and show and save nothing
    bars = [ProgressBar()] if first and (sys.stderr.isatty() or args.progress) else []
    started = time.perf_counter()
    with SignalsStop() as signals:
        try:
            run = signals.run = Run(
                path,
                config,
                data_dir=args.data_dir,
                device=args.device,
                callbacks=[Table(), *bars] if first else [],
                resume=args.resume is not None,
                progress=bool(bars),
                checkpoint_minutes=args.checkpoint_minutes,
                on_save_error=args.on_save_error,
                group=args.group,
                cuda_graph=args.cuda_graph,
            )
            with run, failures_named():
                if first:
                    _introduce(run)
                run.fit()
        except TrainingDivergedError as error:
            raise TrainingDivergedError(
                f"{error}; {run.last_checkpoint}, in {run.path}; a lower --lr may help"
            ) from error
        except (MemoryError, DeviceFailedError) as error:
            if signals.run is None:
                raise
            kind = MemoryError if isinstance(error, MemoryError) else DeviceFailedError  # CuPy's takes other arguments
            raise kind(f"{error}; {_how_to_continue(signals.run)}") from error
        except KeyboardInterrupt:
            return _stopped(signals, first)
    if not run.trainer.complete:
        return _stopped(signals, first)
    if not first:
        return 0
    print(f"{_figures(run)}, {time.perf_counter() - started:.1f} s in all")
    _draw(run)
    _report(run)
    print(f"saved in {run.path}")
    return 0


def _introduce(run: Run) -> None:
    model, config = run.trainer.model, run.config
    processes = "" if run.group.size == 1 else f", {run.group.size} processes"
    held_out = "" if run.validation is None else f", {len(run.validation.dataset):,} validation"
    print(
        f"{config.model} ({model.count_parameters():,} parameters) on {config.data} "
        f"({len(run.loader.dataset):,} training{held_out} and {len(run.test.dataset):,} test images), "
        f"device {model.device.name} ({model.device.description}){processes}, in {run.path}",
        flush=True,
    )


def _figures(run: Run) -> str:
    """Return the figures of a complete run, for the last line."""
    best = ""
    if (record := run.trainer.best) is not None:
        epoch, loss, accuracy = (record[key] for key in ("epoch", "validation_loss", "validation_accuracy"))
        best = f"best epoch {epoch} of {run.trainer.epoch} (validation loss {loss:.4f}, accuracy {accuracy:.2%}); "
    assert run.tested is not None  # as it is complete
    return f"{best}test accuracy {run.tested['accuracy']:.2%}"


def _stopped(signals: SignalsStop, first: bool) -> int:
    """Print how to continue after a signal, on the first process, and return the exit code."""
    by = "" if signals.received in (None, signal.SIGINT) else f" by {signals.received.name}"
    then = "before training began"
    if (run := signals.run) is not None:
        then = _how_to_continue(run)
    if first:
        print(f"xpcnn: interrupted{by}; {then}", file=sys.stderr)
    return signals.exit_code


def _how_to_continue(run: Run) -> str:
    return f"{run.last_checkpoint}; continue with: xpcnn train --resume {shlex.quote(str(run.path))}"


def _resumed(args: argparse.Namespace) -> tuple[Path, RunConfig]:
    """Return the folder and the configuration of the run to continue."""
    network = network_from(args)
    options = [*given(args, RunConfig), *(name for name in ("output", "recipe") if getattr(args, name) is not None)]
    if options := [name for name in options if name != "model" or network is None]:
        names = ", ".join("--" + name.replace("_", "-") for name in options)
        raise ValueError(f"--resume takes the run's own options; leave out {names}")
    path = Path(args.resume)
    config = _config_in(path, args.group)
    try:
        return path, config.using(network)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _new(args: argparse.Namespace) -> tuple[Path | Iterator[Path], RunConfig]:
    """Return the folder, or the possible ones, and the configuration of a new run."""
    if args.init is not None:
        _use_options_of(args)
    config = config_from(args, RunConfig)
    if args.output is not None:
        return Path(args.output), config
    model = config.model.rpartition(":")[2]
    name = re.sub(r"[^\w.-]+", "_", f"{model}-{Path(config.data).stem}")
    return (Path("runs", f"{name}-{i}") for i in itertools.count(1)), config


def _use_options_of(args: argparse.Namespace) -> None:
    """Set the options that describe the network to those of the run `--init`, unless they are given."""
    path = Path(args.init).resolve()
    config = _config_in(path, args.group)
    if args.model is None and is_own(config.model):
        raise ValueError(f"{path}: its network is {config.model}: give it again by --model {config.model}")
    args.init = str(path)
    for name in ("model", "size", "pretrained"):
        if getattr(args, name) is None:
            setattr(args, name, getattr(config, name) or None)


def _config_in(path: Path, group: Group) -> RunConfig:
    """Return the configuration of a run, whose folder only process 0 needs to have."""
    found = b"" if group.rank else json.dumps(asdict(read_config(path))).encode()
    return RunConfig.from_dict(json.loads(group.share(found)))


def _draw(run: Run) -> None:
    """Draw the curves of a run and some of its predictions into its folder."""
    try:
        figures = {"curves.png": viz.curves(run.records)}
    except ImportError as error:
        print(f"xpcnn: no pictures of the run: {error}", file=sys.stderr)
        return
    test = run.test.dataset
    # Spread over all images, as those of a folder come class by class.
    sample = test.subset(np.unique(np.linspace(0, len(test) - 1, 32).astype(int)))
    images = np.asarray(sample.images)
    probabilities = run.trainer.predict(images)
    figures["predictions.png"] = viz.predictions(images, sample.labels, probabilities, sample.classes)
    for name, figure in figures.items():
        picture = io.BytesIO()
        figure.savefig(picture, format="png")
        try:
            write_atomically(run.path / name, picture.getvalue())
        except OSError as error:  # the run itself is saved
            print(f"xpcnn: warning: {run.path / name} cannot be written: {error.strerror}", file=sys.stderr)


def _report(run: Run) -> None:
    """Write the report into the run's folder."""
    try:
        print(f"report in {write_run_report(run)}")
    except OSError as error:  # the run itself is saved
        print(f"xpcnn: warning: {run.path / REPORT} cannot be written: {error.strerror}", file=sys.stderr)
