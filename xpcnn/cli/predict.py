"""`xpcnn evaluate` and `xpcnn predict`: measure a trained network, classify pictures."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..data import DATASETS, load_dataset
from ..data.errors import one_line
from ..data.formats.images import read_image
from ..training import evaluate, load_trained, predict
from .options import add_command, add_data_dir, add_device, add_threads


def add_commands(commands: Any) -> None:
    """Add `evaluate` and `predict` to the sub-parsers of a command line."""
    measuring = add_command(commands, "evaluate", _evaluate, "measure a trained network on the test images")
    measuring.add_argument("run", metavar="RUN", help="folder of a run, or a checkpoint file")
    measuring.add_argument("--data", help="another data set of the same shape")
    classifying = add_command(commands, "predict", _predict, "classify pictures")
    classifying.add_argument("run", metavar="RUN", help="folder of a run, or a checkpoint file")
    classifying.add_argument("images", metavar="IMAGE", nargs="+", help="PNG, JPEG, TIFF or other picture, of any size")
    for parser in (measuring, classifying):
        add_data_dir(parser)
        add_device(parser)
        add_threads(parser)


def _evaluate(args: argparse.Namespace) -> int:
    model, config = load_trained(args.run, args.device)
    test = load_dataset(args.data or config.data, "test", args.data_dir)
    expected = DATASETS[config.data].shape
    if test.images.shape[1:] != expected:
        raise ValueError(f"{test} has images (C, H, W) = {test.images.shape[1:]}, this network takes {expected}")
    device = model.device
    result = evaluate(model, config.make_loader(test, train=False, device=device))
    print(
        f"{test.name}: accuracy {result.accuracy:.2%} ({result.correct:,} of {result.samples:,} test images), "
        f"loss {result.loss:.4f}, device {device.name} ({device.description})"
    )
    return 0


def _predict(args: argparse.Namespace) -> int:
    model, config = load_trained(args.run, args.device)
    info = DATASETS[config.data]
    # All files are read first: a bad one is to be said before any result.
    try:
        with _quiet_libraries():
            pictures = [read_image(path, info.shape, drawing=info.drawing) for path in args.images]
    except ImportError as error:
        raise ImportError(f"reading pictures needs Pillow: pip install pillow ({error})") from error
    probabilities = predict(model, np.stack([image for image, _ in pictures]), mean=info.mean, std=info.std)
    for path, (_, done), row in zip(args.images, pictures, probabilities, strict=True):
        best = int(row.argmax())
        print(f"{one_line(path)}: {info.classes[best]} ({row[best]:.1%})  [{'; '.join(done)}]")
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
