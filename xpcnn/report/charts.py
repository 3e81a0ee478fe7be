"""Charts as SVG inside the page: their colours are the page's variables, so that one drawing serves light and dark."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import ceil, floor, inf, isfinite, log10

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
        points: pairs of x and y; the line has a gap where one cannot be drawn, as it is not finite.
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
    bounds: tuple[float, float] = (-inf, inf),
    logarithmic: bool = False,
) -> Html:
    """Return a line chart with its title and legend. The x axis counts, so its ticks are whole numbers.

    Args:
        title: what the y axis shows.
        curves: those without a point that can be drawn are left out.
        x_label: what the x axis counts.
        show: returns a tick's y as text.
        bounds: what y cannot pass, such as 0 and 1; there are no ticks beyond.
        logarithmic: whether y is on a logarithmic axis; then values of 0 or less cannot be drawn.
    """
    lowest = 0.0 if logarithmic else -inf
    drawn = [(curve, [point for point in curve.points if _drawable(point, lowest)]) for curve in curves]
    drawn = [(curve, points) for curve, points in drawn if points]
    if not drawn:
        return element("div", element("h3", title), element("p", "no values that can be drawn", class_="soft"))
    xs, ys = zip(*(point for _, points in drawn for point in points), strict=True)
    ticks = log_ticks(min(ys), max(ys)) if logarithmic else linear_ticks(min(ys), max(ys))
    ticks = [tick for tick in ticks if bounds[0] <= tick <= bounds[1]]
    frame = _Frame(min(xs), max(xs), ticks[0], ticks[-1], logarithmic)
    parts = [*_grid(frame, ticks, show, x_label), *(_drawn(frame, curve, lowest, show, x_label) for curve, _ in drawn)]
    ends = "; ".join(f"{curve.name} from {show(points[0][1])} to {show(points[-1][1])}" for curve, points in drawn)
    box, label = f"0 0 {_WIDTH:g} {_HEIGHT:g}", f"{title} by {x_label}: {ends}"
    drawing = element("svg", *parts, class_="chart", viewBox=box, role="img", aria_label=label)
    return element("div", element("h3", title), _legend([curve for curve, _ in drawn]), drawing)


class _Frame:
    """Where points lie in a chart whose axes run from `left` to `right` and from `low` to `high`."""

    def __init__(self, left: float, right: float, low: float, high: float, logarithmic: bool) -> None:
        margin = 0.5 if left == right else 0.0
        self.left, self.right = left, right
        self._scale: Callable[[float], float] = log10 if logarithmic else float
        self._across = _axis(left - margin, right + margin, _LEFT, _WIDTH - _RIGHT)
        self._up = _axis(self._scale(low), self._scale(high), _HEIGHT - _BOTTOM, _TOP)

    def across(self, x: float) -> str:
        return _number(self._across(x))

    def up(self, y: float) -> str:
        return _number(self._up(self._scale(y)))


def _grid(frame: _Frame, ticks: Sequence[float], show: Callable[[float], str], x_label: str) -> Iterator[Html]:
    """Yield the lines and the labels of the axes."""
    for y in ticks:
        height = frame.up(y)
        yield element("line", class_="grid", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=height, y2=height)
        yield element("text", show(y), x=_LEFT - 6, y=height, dy=".35em", text_anchor="end")
    for x in whole_ticks(frame.left, frame.right):
        yield element("text", f"{x:,}", x=frame.across(x), y=_HEIGHT - _BOTTOM + 15, text_anchor="middle")
    yield element("text", x_label, x=(_LEFT + _WIDTH - _RIGHT) / 2, y=_HEIGHT - 4, text_anchor="middle")


def _drawn(frame: _Frame, curve: Curve, lowest: float, show: Callable[[float], str], x_label: str) -> Html:
    """Return a curve: a line with gaps, and dots that show their values under the pointer if there are not too many."""
    lines, dots = [], []
    for drawable, points in groupby(curve.points, lambda point: _drawable(point, lowest)):
        if not drawable:
            continue
        places = []
        for x, y in points:
            place = frame.across(x), frame.up(y)
            text = element("title", f"{curve.name}, {x_label} {x:g}: {show(y)}")
            dots.append(element("circle", text, class_="dot", cx=place[0], cy=place[1], r=2.4))
            places.append(",".join(place))
        lines.append(element("polyline", points=" ".join(places), class_="curve"))
    return element("g", *lines, *(dots if len(dots) <= _MOST_DOTS else ()), class_=curve.style)


def _drawable(point: tuple[float, float], lowest: float) -> bool:
    return all(map(isfinite, point)) and point[1] > lowest


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
    return [float(f"{i * step:.10g}") for i in range(floor(low / step + 1e-9), ceil(high / step - 1e-9) + 1)]


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
