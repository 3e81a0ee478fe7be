"""`xpcnn evaluate` and `xpcnn predict`: measure a trained network, classify pictures."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..data import Loader
from ..data.errors import one_line
from ..data.formats.images import read_image
from ..data.sources import load_test
from ..training import evaluate, load_trained
from ..training.config import EVALUATION_BATCH
from .options import add_command, add_data_dir, add_device, add_network, add_threads, network_from


def add_commands(commands: Any) -> None:
    """Add `evaluate` and `predict` to the sub-parsers of a command line."""
    measuring = add_command(commands, "evaluate", _evaluate, "measure a trained network on the test images")
    measuring.add_argument("run", metavar="RUN", help="folder of a run, or a checkpoint file")
    measuring.add_argument("--data", metavar="NAME|PATH", help="other images of the same classes")
    classifying = add_command(commands, "predict", _predict, "classify pictures")
    classifying.add_argument("run", metavar="RUN", help="folder of a run, or a checkpoint file")
    classifying.add_argument("images", metavar="IMAGE", nargs="+", help="PNG, JPEG, TIFF or other picture, of any size")
    for parser in (measuring, classifying):
        add_network(parser)
        add_data_dir(parser)
        add_device(parser)
        add_threads(parser)


def _evaluate(args: argparse.Namespace) -> int:
    trained = load_trained(args.run, args.device, network_from(args))
    config, spec, device = trained.config, trained.spec, trained.model.device
    options: dict[str, Any] = {"skip_bad": config.skip_bad, "progress": sys.stderr.isatty()}
    test = load_test(args.data or config.data, args.data_dir, like=spec, **options)
    # Normalised as in training, whatever the data set's own mean and std are.
    loader = Loader(test, EVALUATION_BATCH, mean=spec.mean, std=spec.std, device=device)
    result = evaluate(trained.model, loader)
    print(
        f"{test.name}: accuracy {result.accuracy:.2%} ({result.correct:,} of {result.samples:,} test images), "
        f"loss {result.loss:.4f}, device {device.name} ({device.description})"
    )
    return 0


def _predict(args: argparse.Namespace) -> int:
    trained = load_trained(args.run, args.device, network_from(args))
    spec = trained.spec
    # All files are read first: a bad one is to be said before any result.
    try:
        with _quiet_libraries():
            pictures = [read_image(path, spec.shape, drawing=spec.drawing) for path in args.images]
    except ImportError as error:
        raise ImportError(f"reading pictures needs Pillow: pip install pillow ({error})") from error
    probabilities = trained.predict(np.stack([image for image, _ in pictures]))
    for path, (_, done), row in zip(args.images, pictures, probabilities, strict=True):
        best = int(row.argmax())
        print(f"{one_line(path)}: {spec.classes[best]} ({row[best]:.1%})  [{'; '.join(done)}]")
    return 0


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Drop what compiled libraries write to stderr by themselves, as libtiff does for each fault of a file."""
    with Path(os.devnull).open("wb") as nowhere:
        try:
            stderr = os.dup(2)
        except OSError:  # closed by the user
            yield
            return
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
