"""Charts as SVG inside the page: their colours are the page's variables, so that one drawing serves light and dark."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, floor, isfinite, log10

from .markup import Html, element, joined
from .style import SERIES

# The drawing's own units; the page scales it. Small enough that text is still legible at 360 pixels.
_WIDTH, _HEIGHT = 360.0, 210.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 50.0, 12.0, 8.0, 34.0
_MOST_DOTS = 200


@dataclass(frozen=True)
class Curve:
    """One line of a chart.

    Attributes:
        name: for the legend.
        points: pairs of x and y; those that are not finite are left out.
        colour: from 0; after the last colour they start again, dashed.
        dashed: whether the line is dashed.
    """

    name: str
    points: Sequence[tuple[float, float]]
    colour: int
    dashed: bool = False

    @property
    def style(self) -> str:
        """The classes of its colour and dashes."""
        dashed = self.dashed != (self.colour // SERIES % 2 == 1)
        return f"s{self.colour % SERIES + 1}" + (" dashed" if dashed else "")


def line_chart(
    title: str,
    curves: Sequence[Curve],
    *,
    x_label: str = "epoch",
    show: Callable[[float], str] = "{:g}".format,
    logarithmic: bool = False,
) -> Html:
    """Return a line chart with its title and legend. The x axis counts, so its ticks are whole numbers.

    Args:
        title: what the y axis shows.
        curves: those without a point that can be drawn are left out.
        x_label: what the x axis counts.
        show: returns a tick's y as text.
        logarithmic: whether y is on a logarithmic axis; then values of 0 or less are left out.
    """
    lowest = 0.0 if logarithmic else float("-inf")
    drawn = [
        (curve, [(x, y) for x, y in curve.points if isfinite(x) and isfinite(y) and y > lowest]) for curve in curves
    ]
    drawn = [(curve, points) for curve, points in drawn if points]
    if not drawn:
        return element("div", element("h3", title), element("p", "no values that can be drawn", class_="soft"))
    xs, ys = zip(*(point for _, points in drawn for point in points), strict=True)
    ticks = log_ticks(min(ys), max(ys)) if logarithmic else linear_ticks(min(ys), max(ys))
    scale: Callable[[float], float] = log10 if logarithmic else float
    first, last = min(xs), max(xs)
    margin = 0.5 if first == last else 0.0
    across = _axis(first - margin, last + margin, _LEFT, _WIDTH - _RIGHT)
    up = _axis(scale(min(*ticks, *ys)), scale(max(*ticks, *ys)), _HEIGHT - _BOTTOM, _TOP)
    parts = []
    for y in ticks:
        height = _number(up(scale(y)))
        parts.append(element("line", class_="grid", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=height, y2=height))
        parts.append(element("text", show(y), x=_LEFT - 6, y=height, dy=".35em", text_anchor="end"))
    for x in whole_ticks(first, last):
        middle = {"x": _number(across(x)), "text_anchor": "middle"}
        parts.append(element("text", f"{x:,}", y=_HEIGHT - _BOTTOM + 15, **middle))
    parts.append(element("text", x_label, x=(_LEFT + _WIDTH - _RIGHT) / 2, y=_HEIGHT - 4, text_anchor="middle"))
    for curve, points in drawn:
        places = [(_number(across(x)), _number(up(scale(y)))) for x, y in points]
        line = " ".join(f"{x},{y}" for x, y in places)
        inside = [element("polyline", points=line, class_="curve")]
        if len(points) <= _MOST_DOTS:
            inside += [
                element(
                    "circle",
                    element("title", f"{curve.name}, {x_label} {x:g}: {show(y)}"),
                    class_="dot",
                    cx=a,
                    cy=b,
                    r=2.4,
                )
                for (x, y), (a, b) in zip(points, places, strict=True)
            ]
        parts.append(element("g", *inside, class_=curve.style))
    ends = "; ".join(f"{curve.name} from {show(p[0][1])} to {show(p[-1][1])}" for curve, p in drawn)
    label = f"{title} by {x_label}: {ends}"
    drawing = element(
        "svg", *parts, class_="chart", viewBox=f"0 0 {_WIDTH:g} {_HEIGHT:g}", role="img", aria_label=label
    )
    return element("div", element("h3", title), _legend([curve for curve, _ in drawn]), drawing)


def _legend(curves: Sequence[Curve]) -> Html:
    sample = element("line", class_="curve", x1=0, x2=26, y1=5, y2=5)
    return element(
        "ul",
        *(
            element(
                "li", element("svg", sample, class_=curve.style, viewBox="0 0 26 10", aria_hidden="true"), curve.name
            )
            for curve in curves
        ),
        class_="keys",
    )


def error_scale(error: float, tolerance: float, lowest: float, highest: float, *, agrees: bool) -> Html:
    """Return an error as a dot beside its tolerance, on a logarithmic axis that the rows of a table share.

    Args:
        error, tolerance: 0 is drawn at the left end, and what is not finite at the right end.
        lowest, highest: the ends of the axis.
        agrees: gives the dot its colour.
    """
    across = _axis(log10(lowest), log10(highest), 6, 138)

    def place(value: float) -> str:
        inside = min(max(value, lowest), highest) if isfinite(value) else highest
        return _number(across(log10(inside)))

    limit = place(tolerance)
    parts = joined(
        [
            element("rect", class_="within", x=0, y=5, width=limit, height=6),
            element("line", class_="limit", x1=limit, x2=limit, y1=1, y2=15),
            element("circle", class_="error", cx=place(error), cy=8, r=4),
        ]
    )
    style = "scale s1" if agrees else "scale s2"
    return element("svg", parts, class_=style, viewBox="0 0 144 16", aria_hidden="true")


def linear_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return round numbers from about `low` to `high`, at least one step apart."""
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        margin = abs(low) / 10 or 1.0
        low, high = low - margin, high + margin
    step = _round_step((high - low) / most, (1, 2, 2.5, 5, 10))
    return [round(i * step, 12) for i in range(floor(low / step + 1e-9), ceil(high / step - 1e-9) + 1)]


def whole_ticks(low: float, high: float, most: int = 8) -> list[int]:
    """Return whole numbers from `low` to `high`."""
    step = int(_round_step(max(1.0, (high - low) / most), (1, 2, 5, 10)))
    return list(range(ceil(low / step) * step, floor(high) + 1, step))


def log_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return powers of ten that enclose `low` to `high`."""
    first, last = floor(log10(low) + 1e-9), ceil(log10(high) - 1e-9)
    last = max(last, first + 1)
    step = ceil((last - first) / most)
    return [10.0**power for power in range(first, last + step, step)]


def _round_step(least: float, multiples: Sequence[float]) -> float:
    """Return the smallest round number that is at least `least`."""
    power = 10.0 ** floor(log10(least))
    return next(multiple * power for multiple in multiples if multiple * power >= least * (1 - 1e-9))


def _axis(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """Return the linear function that takes `low` to `start` and `high` to `end`."""
    span = high - low or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def _number(value: float) -> str:
    return f"{value:.1f}"
