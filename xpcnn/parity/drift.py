"""How far two runs drift apart from rounding alone: measured with a twin, not derived.

The twin starts from weights that differ by what rounding in one layer may come to. What it is off by at each step, in
the loss, in the sizes of all arrays and in the number of samples classified rightly, is what another device may be off
by, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import sqrt

import numpy as np

from ..backend import HostArray
from ..data import Dataset
from ..nn import Sequential
from .config import TraceConfig
from .steps import StepResult
from .tolerances import Precision, tolerance


def perturbation(precision: Precision) -> float:
    """Return by how much, relatively, the twin's initial weights are changed: what rounding does to a sum of 1,000."""
    return tolerance("product", 1000, precision)


def precisions(config: TraceConfig) -> list[Precision]:
    """Return the precisions in which a run may be repeated."""
    return ["float32", "tf32"] if config.dtype == "float32" else ["float64"]


def twin_of(config: TraceConfig, dataset: Dataset, initial: dict[str, HostArray], precision: Precision) -> Sequential:
    """Return the network with its initial weights moved up or down by a rounding error each, at random."""
    model, rng, amount = config.make_model(dataset), np.random.default_rng(0), perturbation(precision)
    signs = {
        name: rng.choice([-1, 1], array.shape) if array.dtype.kind == "f" else 0 for name, array in initial.items()
    }
    model.load_state_dict({name: array + array * (amount * signs[name]) for name, array in initial.items()})
    return model


def drift_by_step(
    own: Iterable[tuple[dict[str, float], int]], twin: Iterable[StepResult]
) -> Iterator[dict[str, float]]:
    """Yield for each step how far the two runs were apart so far, from `(quantities, correct)` of one's own.

    `"forward"` and `"backward"` hold the largest relative distance: one number for all arrays of a pass, not one for
    each, as a single array of the twin may come close to its original by chance, which says nothing of how far another
    device's may be from it. The loss belongs to the forward pass. `"correct"` is by how much the number of samples
    classified rightly so far may come to differ, were the differences of single steps independent of each other.
    """
    so_far = {"forward": 0.0, "backward": 0.0}
    squares = 0
    for (quantities, correct), result in zip(own, twin, strict=True):
        for name, value in result.quantities().items():
            distance = abs(value - quantities[name]) / (abs(quantities[name]) or 1.0)
            kind = direction(name)
            so_far[kind] = max(so_far[kind], distance if np.isfinite(distance) else 1.0)
        squares += (result.correct - correct) ** 2
        yield so_far | {"correct": sqrt(squares)}


def direction(quantity: str) -> str:
    """Return the pass in which a quantity arises: `"layer:y"` and `"loss"` in the forward one, gradients backward."""
    return "forward" if quantity == "loss" or quantity.endswith(":y") else "backward"
