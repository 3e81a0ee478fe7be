"""One comparison of arrays, with its tolerance and its verdict."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from math import inf, isfinite
from typing import Any

from ..backend import HostArray
from ..testing.assertions import worst_difference
from .bounds import Bound


@dataclass(frozen=True)
class Row:
    """One comparison: a layer's forward or backward pass, or its parameters' update, in one step.

    Attributes:
        layer: its name in the model.
        kind: its class's name.
        direction: `"forward"`, `"backward"` or `"update"`.
        array: which array was farthest off: `"y"`, `"dx"` or a parameter's name.
        step: the training step, from 1.
        absolute: the largest absolute difference.
        relative: the same, relative to the scale of the computation.
        tolerance: what the relative difference may be.
        index: where the largest difference is.
        source: `"arrays"` compared element by element, or their `"sizes"` (root mean square) in a run of its own.
    """

    layer: str
    kind: str
    direction: str
    array: str
    step: int
    absolute: float
    relative: float
    tolerance: float
    index: tuple[int, ...] = ()
    source: str = "arrays"

    @property
    def agrees(self) -> bool:
        """Whether the difference is within the tolerance; not a number never is."""
        return self.relative <= self.tolerance

    @property
    def severity(self) -> float:
        """The difference in units of the tolerance."""
        if self.relative == 0:
            return 0.0
        return self.relative / self.tolerance if self.tolerance and isfinite(self.relative) else inf

    def of_sizes(self) -> Row:
        """Return this row as one that compares sizes, not arrays."""
        return replace(self, source="sizes")

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes and the verdict, as JSON can hold them."""
        values = asdict(self) | {"index": list(self.index), "agrees": self.agrees}
        return {
            key: None if isinstance(value, float) and not isfinite(value) else value for key, value in values.items()
        }


def make_row(
    layer: str,
    kind: str,
    direction: str,
    step: int,
    actual: dict[str, HostArray],
    expected: dict[str, HostArray],
    bounds: dict[str, Bound],
) -> Row:
    """Return the comparison of the array that is farthest off."""
    rows = []
    for name, want in expected.items():
        absolute, index = _largest_difference(actual.get(name), want)
        bound = bounds[name]
        # Where the scale is 0 so is every right result.
        relative = absolute / bound.scale if bound.scale else (inf if absolute else 0.0)
        rows.append(Row(layer, kind, direction, name, step, absolute, relative, bound.tolerance, index))
    return max(rows, key=lambda row: row.severity)


def _largest_difference(actual: HostArray | None, expected: HostArray) -> tuple[float, tuple[int, ...]]:
    """Return the largest absolute difference and where it is; infinite if shape or dtype differ or nothing is there."""
    if actual is None or actual.shape != expected.shape or actual.dtype != expected.dtype:
        return inf, ()
    worst = worst_difference(actual, expected)
    return (0.0, ()) if worst is None else (worst.absolute, worst.index)
