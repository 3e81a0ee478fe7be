"""How far two runs drift apart from rounding alone: measured with a twin, not derived.

The twin starts from weights that differ by what rounding in one layer may come to. What it is off by at each step, in
the loss and in the sizes of all arrays, is what another device may be off by, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ..data import Dataset
from ..nn import Sequential
from .config import TraceConfig
from .observe import HostArray
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


def spreads(sizes: Sequence[dict[str, float]], twin: Iterator[StepResult]) -> Iterator[dict[str, float]]:
    """Yield for each step the largest relative distance of the two runs so far, one for each pass.

    One number for all arrays of a pass, and not one for each: a single array of the twin may come close to its original
    by chance, which says nothing of how far another device's may be from it. The loss belongs to the forward pass.
    """
    so_far = {"forward": 0.0, "backward": 0.0}
    for own, result in zip(sizes, twin, strict=True):
        for name, value in result.quantities().items():
            distance = abs(value - own[name]) / (abs(own[name]) or 1.0)
            kind = direction(name)
            so_far[kind] = max(so_far[kind], distance if np.isfinite(distance) else 1.0)
        yield dict(so_far)


def direction(quantity: str) -> str:
    """Return the pass in which a quantity arises: `"layer:y"` and `"loss"` in the forward one, gradients backward."""
    return "forward" if quantity == "loss" or quantity.endswith(":y") else "backward"
