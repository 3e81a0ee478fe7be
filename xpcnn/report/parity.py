"""The page about a parity check."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from math import isfinite
from typing import Any

from ..parity import Comparison, Report
from .charts import Curve, error_scale, line_chart
from .markup import Html, element, facts, page, section, table
from .run import short_names


def parity_report(reports: Sequence[Report]) -> str:
    """Return a page about parity checks, as HTML in one file.

    Args:
        reports: what `xpcnn.parity.check` returned, or each of those of `xpcnn.parity.run`.
    """
    first = reports[0]
    title = f"Do {' and '.join(_devices(reports))} compute the same?"
    names = " on ".join(short_names(first.config))
    what = f"{names}, {first.config.steps} steps of {first.config.batch_size} images"
    settings = section("Configuration", facts(asdict(first.config).items()))
    return page(
        title, element("p", what, class_="soft"), *(part for report in reports for part in _report(report)), settings
    )


def _devices(reports: Sequence[Report]) -> list[str]:
    return [str(reports[0].recorded["device"]), *(str(report.here["device"]) for report in reports)]


def _report(report: Report) -> Iterator[Html]:
    verdict, _, rest = report.verdict.partition(": ")
    yield element("p", verdict, class_="big good" if report.agrees else "big bad")
    yield element("p", rest)
    yield element("div", *(_side(name, side) for name, side in _sides(report)), class_="columns")
    yield section("Each layer's error and its tolerance", *_arrays(report.worst()))
    yield section("Growth of the errors", _growth(report), _losses(report))


def _sides(report: Report) -> list[tuple[str, dict[str, Any]]]:
    return [("Recorded", report.recorded), ("Compared with it", report.here)]


def _side(name: str, side: dict[str, Any]) -> Html:
    entries = [("device", f"{side['device']} ({side['description']})"), *side["versions"].items()]
    return section(name, facts(entries))


def _arrays(comparisons: Sequence[Comparison]) -> list[Html]:
    sizes = [size for row in comparisons for size in (row.relative, row.tolerance) if isfinite(size) and size > 0]
    lowest, highest = min(sizes, default=1e-9) / 2, max(sizes, default=1.0) * 2
    rows = [
        (
            row.layer,
            row.direction,
            row.array + (" (size)" if row.source == "sizes" else ""),
            error_scale(row.relative, row.tolerance, lowest, highest, agrees=row.agrees),
            _size(row.relative),
            _size(row.tolerance),
            _size(row.absolute),
            row.step,
            _verdict(row.agrees),
        )
        for row in sorted(comparisons, key=lambda row: row.agrees)  # those that differ first
    ]
    head = ("layer", "pass", "array", "error and tolerance", "relative error", "tolerance", "largest error")
    text = (
        "For each layer and pass, the array nearest to its tolerance over all steps. The dot is the error and the bar "
        "ends at the tolerance, both relative to the size of the numbers, on a logarithmic axis from "
        f"{lowest:.0e} to {highest:.0e}."
    )
    shown = table("Errors and tolerances", (*head, "step", "verdict"), rows, left=4)
    return [element("p", text, class_="soft"), shown]


def _growth(report: Report) -> Html:
    names = list(report.growth().items())
    curves = [
        Curve(name, list(enumerate(errors, 1)), min(i, 2), dashed="tolerance" in name)
        for i, (name, errors) in enumerate(names)
    ]
    return line_chart("relative error", curves, x_label="step", show="{:.2g}".format, logarithmic=True)


def _losses(report: Report) -> Html:
    rows = [
        (
            loss.step,
            f"{loss.recorded:.6f}",
            f"{loss.here:.6f}",
            _size(loss.relative),
            _size(loss.tolerance),
            _verdict(loss.agrees),
        )
        for loss in report.losses
    ]
    head = ("step", "loss recorded", "loss here", "relative error", "tolerance", "verdict")
    return element("details", element("summary", "the loss of each step"), table("Loss of each step", head, rows))


def _size(value: float) -> str:
    return f"{value:.1e}" if value else "0"


def _verdict(agrees: bool) -> Html:
    return element("span", "agrees", class_="good") if agrees else element("span", "DIFFERS", class_="bad")
