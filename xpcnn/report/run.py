"""The page about a training run."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import HostArray, to_host
from ..data import Dataset
from ..nn import Conv2d, Module
from ..nn.summary import Summary
from ..parity.record import versions
from ..training import Run, TrainingConfig
from ..training.callbacks import Record
from .charts import Curve, line_chart
from .classes import Predictions, class_sections
from .markup import Html, element, facts, joined, page, section, table, write_page
from .pictures import picture

REPORT = "report.html"

PARTS = {"train": "training", "validation": "validation", "test": "test"}
_AT_ONCE = 8192  # images whose probabilities are in memory at the same time
_MOST_FILTERS = 64


def run_report(
    title: str,
    records: Sequence[Record],
    *,
    test: Dataset | None = None,
    probabilities: HostArray | Predictions | None = None,
    model: Module | None = None,
    in_shape: Sequence[int] | None = None,
    config: Mapping[str, object] | None = None,
) -> str:
    """Return a page about a training run, as HTML in one file. What is not given is left out.

    Args:
        title: the page's.
        records: of the epochs, as `Trainer.fit` returns them.
        test: the test images, for the confusion table and the mistakes.
        probabilities: of each class for each of the test images, `(N, classes)`, as `predict` returns them.
        model: the trained network, for its layers and filters.
        in_shape: of one image, `(C, H, W)`; None for that of the test images.
        config: names and values, such as `dataclasses.asdict(run.config)`.

    Raises:
        ValueError: if there are not as many probabilities as test images and classes.
    """
    found = None
    if test is not None and probabilities is not None and len(test):
        found = probabilities if isinstance(probabilities, Predictions) else _checked(probabilities, test)
    if in_shape is None and test is not None:
        in_shape = test.images.shape[1:]
    parts = [_result(records, test, found, model), *_curves(records)]
    if test is not None and found is not None:
        parts += class_sections(test, found)
    if model is not None:
        parts += _network(model, in_shape)
    settings = [section("Configuration", facts(config.items()))] if config else []
    settings.append(section("Where it ran", facts(_environment(records, model))))
    return page(title, *parts, element("div", *settings, class_="columns"))


def write_run_report(run: Run) -> Path:
    """Write `report.html` into the folder of a run, whose network classifies all test images once for it.

    Returns:
        the path of the file.

    Raises:
        OSError: if it cannot be written.
    """
    test = run.test.dataset
    parts = []
    for first in range(0, len(test), _AT_ONCE):
        some = test.subset(slice(first, first + _AT_ONCE))
        parts.append(Predictions.of(run.trainer.predict(some.images), some.labels))
    title, found, config = " on ".join(short_names(run.config)), Predictions.joined(parts), asdict(run.config)
    path, model = run.path / REPORT, run.trainer.model
    write_page(path, run_report(title, run.records, test=test, probabilities=found, model=model, config=config))
    return path


def short_names(config: TrainingConfig) -> tuple[str, str]:
    """Return the names of the network and of the data, without the folders of those that are files."""
    return config.model.rpartition(":")[2], Path(config.data).name


def _checked(probabilities: HostArray, test: Dataset) -> Predictions:
    expected = len(test), len(test.classes)
    if probabilities.shape != expected:
        raise ValueError(f"expected probabilities (images, classes) = {expected}, got {probabilities.shape}")
    return Predictions.of(probabilities, test.labels)


def _result(records: Sequence[Record], test: Dataset | None, found: Predictions | None, model: Module | None) -> Html:
    lines = []
    if test is not None and found is not None:
        accuracy = (found.predicted == test.labels).mean()
        lines.append(element("p", f"{accuracy:.2%}", class_="big"))
        lines.append(element("p", f"of {len(test):,} test images classified correctly, loss {found.loss:.4f}"))
    words = []
    if records:
        epochs = int(records[-1]["epoch"])
        words.append(f"{epochs:,} epoch{'' if epochs == 1 else 's'}")
        words.append(f"{duration(sum(record.get('seconds', 0.0) for record in records))} of training")
    if model is not None:
        words.append(f"{model.count_parameters():,} parameters")
    lines.append(element("p", " · ".join(words), class_="soft"))
    return joined(lines)


def measured_in(records: Iterable[Record]) -> tuple[list[str], list[str]]:
    """Return the parts of the data that the records measure, and the quantities, the loss first.

    Returns:
        such as `["train", "test"]` and `["loss", "accuracy"]`.
    """
    keys = dict.fromkeys(key for record in records for key in record)
    split = [key.partition("_") for key in keys]
    parts = [part for part in PARTS if any(part == found for found, _, _ in split)]
    names = dict.fromkeys(name for found, _, name in split if found in PARTS)
    return parts, sorted(names, key=lambda name: name != "loss")


def curve(records: Iterable[Record], key: str) -> list[tuple[float, float]]:
    """Return the points of one quantity by epoch."""
    return [(record["epoch"], record[key]) for record in records if key in record]


def formatted(quantity: str) -> Any:
    """Return the function that shows a value of a quantity: accuracies in percent."""
    return (lambda value: f"{100 * value:.6g}%") if quantity.endswith("accuracy") else "{:.5g}".format


def quantity_chart(title: str, quantity: str, curves: Sequence[Curve]) -> Html:
    """Return the chart of one quantity by epoch."""
    bounds = (0.0, 1.0) if quantity.endswith("accuracy") else (-inf, inf)
    return line_chart(title, curves, show=formatted(quantity), bounds=bounds)


def _curves(records: Sequence[Record]) -> list[Html]:
    parts, quantities = measured_in(records)
    if not quantities:
        return []
    charts = []
    for quantity in quantities:
        curves = [Curve(PARTS[part], curve(records, f"{part}_{quantity}"), colour) for colour, part in enumerate(parts)]
        charts.append(quantity_chart(quantity, quantity, curves))
    columns = [(f"{part}_{quantity}", quantity) for part in parts for quantity in quantities]
    head = ["epoch", *(f"{PARTS[key.partition('_')[0]]} {quantity}" for key, quantity in columns)]
    rows = [
        [
            f"{record['epoch']:.0f}",
            *(formatted(quantity)(record[key]) if key in record else "-" for key, quantity in columns),
            f"{record['seconds']:.1f}" if "seconds" in record else "-",
            f"{record['images_per_second']:,.0f}" if "images_per_second" in record else "-",
        ]
        for record in records
    ]
    every = table("Each epoch", [*head, "seconds", "images/s"], rows)
    return [
        section(
            "Training",
            element("div", *charts, class_="columns"),
            element("details", element("summary", "the numbers of each epoch"), every),
        )
    ]


def _network(model: Module, in_shape: Sequence[int] | None) -> list[Html]:
    sections = []
    first = next(((name, layer) for name, layer in model.named_leaves() if isinstance(layer, Conv2d)), None)
    if first is not None:
        sections.append(section("The first filters", *_filters(*first)))
    if in_shape is not None:
        try:
            layers = _layers(model.summary(in_shape))
        except Exception as error:  # a layer of the user's may fail with a single image; the run is worth its report
            layers = element(
                "p", f"not known, as one image alone fails: {type(error).__name__}: {error}", class_="soft"
            )
        sections.append(section("Layers", layers))
    return sections


def _filters(name: str, layer: Conv2d) -> list[Html]:
    weight = to_host(layer.weight.data)
    channels = weight.shape[1]
    kind = {1: "", 3: " in colour"}.get(channels, f", the first of {channels} channels")
    note = f"{name}: {len(weight)} filters of {weight.shape[2]}×{weight.shape[3]}{kind}, each scaled to its own range"
    note += f"; the first {_MOST_FILTERS}." if len(weight) > _MOST_FILTERS else "."
    shown = [
        picture(values.astype(np.float64), f"filter {i} of {name}") for i, values in enumerate(weight[:_MOST_FILTERS])
    ]
    return [element("p", note, class_="soft"), element("div", *shown, class_="pictures filters")]


def _layers(summary: Summary) -> Html:
    rows = [
        (
            layer.name,
            layer.kind,
            "-" if layer.output_shape is None else "×".join(map(str, layer.output_shape)),
            f"{layer.parameters:,}",
            "-" if layer.multiply_adds is None else f"{layer.multiply_adds:,}",
        )
        for layer in summary.layers
    ]
    foot = ("total", "", "", f"{summary.parameters:,}", f"{summary.multiply_adds:,}")
    head = ("layer", "kind", "output shape", "parameters", "multiply-adds")
    note = f"For one image of {'×'.join(map(str, summary.in_shape))}, in the order in which the layers are computed."
    if summary.unknown:
        note += f" The multiply-adds of {summary.unknown} of them are not known; the total leaves these out."
    shown = table("Layers with output shapes, parameters and multiply-adds", head, rows, foot=foot, left=3)
    return element("div", element("p", note, class_="soft"), shown)


def _environment(records: Sequence[Record], model: Module | None) -> Iterable[tuple[str, object]]:
    if model is not None:
        yield "device", f"{model.device.name} ({model.device.description})"
    if any("seconds" in record for record in records):
        yield "time of training", duration(sum(record.get("seconds", 0.0) for record in records))
    if records and "images_per_second" in records[-1]:
        yield "speed", f"{records[-1]['images_per_second']:,.0f} images/s in the last epoch"
    yield from versions().items()
    yield "report written", time.strftime("%Y-%m-%d %H:%M")


def duration(seconds: float) -> str:
    """Return a time in words, such as "3 min 20 s"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
