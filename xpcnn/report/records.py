"""What the records of a run's epochs tell: curves, and the numbers behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import inf

from ..training.callbacks import Record
from .charts import Curve, line_chart
from .markup import Html, element, section, table

PARTS = {"train": "training", "validation": "validation", "test": "test"}


def training_section(records: Sequence[Record]) -> list[Html]:
    """Return the part of the page with the curves, if the records have any."""
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


def formatted(quantity: str) -> Callable[[float], str]:
    """Return the function that shows a value of a quantity: accuracies in percent."""
    return (lambda value: f"{100 * value:.6g}%") if quantity.endswith("accuracy") else "{:.5g}".format


def quantity_chart(title: str, quantity: str, curves: Sequence[Curve]) -> Html:
    """Return the chart of one quantity by epoch."""
    bounds = (0.0, 1.0) if quantity.endswith("accuracy") else (-inf, inf)
    return line_chart(title, curves, show=formatted(quantity), bounds=bounds)


def duration(seconds: float) -> str:
    """Return a time in words, such as "3 min 20 s"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
