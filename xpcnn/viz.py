"""Pictures of a training run; needs the `viz` extra (matplotlib).

Every function returns a matplotlib Figure, to be shown or saved with `figure.savefig(path)`. No global state of
matplotlib's is touched, so nothing here opens a window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from .backend import Array, to_host
from .extras import needed_for

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def curves(records: Sequence[Mapping[str, float]]) -> Figure:
    """Draw the loss and each metric by epoch, of training, validation and test, from the records of a `History`."""
    keys = dict.fromkeys(key for record in records for key in record)
    measured = {key.partition("_")[2]: None for key in keys if key.startswith(("train_", "validation_", "test_"))}
    quantities = sorted(measured, key=lambda name: name != "loss")  # which comes first
    figure = _figure(4.5 * len(quantities), 3.6)
    for axes, quantity in zip(figure.subplots(1, len(quantities), squeeze=False).flat, quantities, strict=True):
        for part, style in (("train", "o-"), ("validation", "^-"), ("test", "s-")):
            points = [
                (record["epoch"], record[f"{part}_{quantity}"]) for record in records if f"{part}_{quantity}" in record
            ]
            if points:
                axes.plot(*zip(*points, strict=True), style, markersize=3, label=part)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("epoch")
        axes.set_ylabel(quantity)
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def loss_curve(losses: Sequence[float], smooth: int = 50) -> Figure:
    """Draw the loss of each iteration, and its mean over the last `smooth` iterations."""
    figure = _figure(6, 3.6)
    axes = figure.subplots()
    axes.plot(losses, linewidth=0.5, alpha=0.5, label="each batch")
    if len(losses) >= smooth:
        means = np.convolve(losses, np.full(smooth, 1 / smooth), "valid")
        axes.plot(np.arange(smooth - 1, len(losses)), means, label=f"mean of {smooth}")
    axes.set_xlabel("iteration")
    axes.set_ylabel("loss")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def error_growth(curves: Mapping[str, Sequence[float]]) -> Figure:
    """Draw relative errors by step, on a logarithmic axis, from the `growth()` of a parity report.

    Args:
        curves: errors of steps 1, 2, … by name; nan where there is none.
    """
    figure = _figure(6, 3.6)
    axes = figure.subplots()
    for name, errors in curves.items():
        shown = [error if error > 0 else float("nan") for error in errors]  # no logarithm of a perfect agreement
        axes.plot(range(1, len(shown) + 1), shown, "--" if "tolerance" in name else "o-", markersize=3, label=name)
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("relative error")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    return figure


def predictions(images: Array, labels: Array, probabilities: Array, classes: Sequence[str], columns: int = 8) -> Figure:
    """Draw images with their predicted class and its probability; wrong ones in red with the true class.

    Args:
        images: `(N, C, H, W)` uint8, or floats from 0 to 1; one or three channels.
        labels: `(N,)`, the true classes.
        probabilities: `(N, classes)`.
        classes: the names of the classes.
    """
    images, labels, probabilities = to_host(images), to_host(labels), to_host(probabilities)
    rows = ceil(len(images) / columns)
    figure = _figure(columns * 1.25, rows * 1.5)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, image, label, row in zip(grid.flat, images, labels, probabilities, strict=False):
        guess = int(row.argmax())
        axes.imshow(_displayable(image), cmap="gray", vmin=0)
        text = f"{classes[guess]} {row[guess]:.0%}" + ("" if guess == label else f"\n(is {classes[label]})")
        axes.set_title(text, fontsize=7, color="black" if guess == label else "red")
    return figure


def filters(weight: Array) -> Figure:
    """Draw the filters of a convolution, each scaled to its own range, as a grid.

    Args:
        weight: `(O, C, KH, KW)`; with three channels in colour, else the first channel in grey.
    """
    weight = to_host(weight)
    columns = ceil(sqrt(len(weight)))
    figure = _figure(columns, ceil(len(weight) / columns))
    grid = figure.subplots(ceil(len(weight) / columns), columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, values in zip(grid.flat, weight, strict=False):
        shown = values if len(values) == 3 else values[:1]
        low, high = shown.min(), shown.max()
        axes.imshow(_displayable((shown - low) / (high - low if high > low else 1)), cmap="gray", vmin=0, vmax=1)
    return figure


def filtered_images(images: Array, maps: Array, titles: Sequence[str]) -> Figure:
    """Draw each image in a row with what each filter of a convolution made of it, scaled to its own range.

    Args:
        images: `(N, C, H, W)` uint8, or floats from 0 to 1; one or three channels.
        maps: `(N, O, OH, OW)`, the convolution's output.
        titles: of the images and of each filter, `1 + O` in all.
    """
    images, maps = to_host(images), to_host(maps)
    rows, columns = len(images), 1 + maps.shape[1]
    figure = _figure(columns * 2.5, rows * 2.5 + 0.3)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title)
    for axes in grid.flat:
        axes.axis("off")
    for line, image, results in zip(grid, images, maps, strict=True):
        line[0].imshow(_displayable(image), cmap="gray", vmin=0)
        for axes, result in zip(line[1:], results, strict=True):
            axes.imshow(result, cmap="gray")
    return figure


def confusion_matrix(labels: Array, guesses: Array, classes: Sequence[str]) -> Figure:
    """Draw how often each true class (row) was taken for each class (column)."""
    counts = np.zeros((len(classes), len(classes)), int)
    np.add.at(counts, (to_host(labels), to_host(guesses)), 1)
    figure = _figure(0.55 * len(classes) + 1.5, 0.55 * len(classes) + 1)
    axes = figure.subplots()
    axes.imshow(np.log1p(counts), cmap="Blues")
    for (row, column), count in np.ndenumerate(counts):
        if count:
            dark = count > counts.max() / 4
            axes.text(column, row, str(count), ha="center", va="center", fontsize=7, color="white" if dark else "black")
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    return figure


def _figure(width: float, height: float) -> Figure:
    with needed_for("drawing"):
        from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def _displayable(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return image[0] if len(image) == 1 else image.transpose(1, 2, 0)
