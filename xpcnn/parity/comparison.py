"""Comparing a layer's arrays under their tolerances."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import inf, isfinite
from typing import Any

from ..backend import HostArray
from ..testing.assertions import worst_difference
from .bounds import Bound


@dataclass(frozen=True)
class Comparison:
    """How a layer's forward pass, backward pass or update compares in one step.

    Attributes:
        layer: its name in the model.
        kind: its class's name.
        direction: `"forward"`, `"backward"` or `"update"` (of its parameters).
        array: the array that differs most: `"y"`, `"dx"` or a parameter's name.
        step: the training step, from 1.
        absolute: the largest absolute difference.
        relative: the same, relative to the scale of the computation.
        tolerance: the largest relative difference that agrees.
        index: where the largest difference is; empty if there is none.
        source: `"arrays"`, compared element by element, or their `"sizes"` (root mean squares) in a training run.
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
        """Whether the difference is within the tolerance; NaN never is."""
        return self.relative <= self.tolerance

    @property
    def severity(self) -> float:
        """The difference in units of the tolerance."""
        if self.relative == 0:
            return 0.0
        return self.relative / self.tolerance if self.tolerance and isfinite(self.relative) else inf

    def __str__(self) -> str:
        place = f" at {self.index}" if self.index else ""
        return (
            f"step {self.step}, layer {self.layer} ({self.kind}), {self.direction}: {self.array} is off by "
            f"{self.absolute:.2e}{place}, relative {self.relative:.2e}, allowed {self.tolerance:.2e}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes and the verdict in the types of JSON."""
        values = asdict(self) | {"index": list(self.index), "agrees": self.agrees}
        return {
            key: None if isinstance(value, float) and not isfinite(value) else value for key, value in values.items()
        }


def compare(
    layer: str,
    kind: str,
    direction: str,
    step: int,
    actual: Mapping[str, HostArray],
    expected: Mapping[str, HostArray],
    bounds: Mapping[str, Bound],
) -> Comparison:
    """Return the comparison of the array that differs most, in units of its tolerance.

    Args:
        layer, kind, direction, step: as in `Comparison`.
        actual, expected: the arrays by name. One that is missing, or of another shape or dtype, differs infinitely.
        bounds: how far each may differ.
    """
    comparisons = []
    for name, want in expected.items():
        absolute, index = _largest_difference(actual.get(name), want)
        bound = bounds[name]
        # A scale of 0 means that every correct result is 0.
        relative = absolute / bound.scale if bound.scale else (inf if absolute else 0.0)
        comparisons.append(Comparison(layer, kind, direction, name, step, absolute, relative, bound.tolerance, index))
    return max(comparisons, key=lambda comparison: comparison.severity)


def _largest_difference(actual: HostArray | None, expected: HostArray) -> tuple[float, tuple[int, ...]]:
    """Return the largest absolute difference, and where it is."""
    if actual is None or actual.shape != expected.shape or actual.dtype != expected.dtype:
        return inf, ()
    worst = worst_difference(actual, expected)
    return (0.0, ()) if worst is None else (worst.absolute, worst.index)
