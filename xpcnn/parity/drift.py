"""How far two runs drift apart from rounding alone. This is measured, not derived.

The recorder trains a twin: the same network, from weights changed by about as much as rounding in one layer would. The
twin's drift from the original, in the loss, in the sizes of all arrays and in the number of correctly classified
samples, is the tolerance for other devices.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import sqrt

import numpy as np

from ..backend import HostArray
from ..data import Dataset
from ..nn import Module
from .config import TraceConfig
from .steps import StepResult
from .tolerances import Precision, tolerance


def perturbation(precision: Precision) -> float:
    """Return the relative change of the twin's initial weights: the rounding error of a sum of 1,000 terms."""
    return tolerance("product", 1000, precision)


def precisions(config: TraceConfig) -> list[Precision]:
    """Return the precisions in which a check may repeat a run."""
    if config.precision == "mixed":
        return ["mixed"]
    return ["float32", "tf32"] if config.dtype == "float32" else ["float64"]


def twin_of(config: TraceConfig, dataset: Dataset, initial: dict[str, HostArray], precision: Precision) -> Module:
    """Return the network with each initial weight moved up or down at random by about a rounding error."""
    model, rng, amount = config.make_model(dataset), np.random.default_rng(0), perturbation(precision)
    signs = {
        name: rng.choice([-1, 1], array.shape) if array.dtype.kind == "f" else 0 for name, array in initial.items()
    }
    model.load_state_dict({name: array + array * (amount * signs[name]) for name, array in initial.items()})
    return model


def drift_by_step(
    own: Iterable[tuple[dict[str, float], int]], twin: Iterable[StepResult]
) -> Iterator[dict[str, float]]:
    """Yield the twin's drift from the original, for each step.

    Args:
        own: the original's `(quantities, correct)` of each step.
        twin: the twin's steps.

    Returns:
        dictionaries. `"forward"` and `"backward"` are the largest relative difference of any quantity of that pass up
        to this step; the loss belongs to the forward pass. It is one number for all arrays, since a single array of the
        twin may be close to the original by chance. `"correct"` is the standard deviation of the difference in
        correctly classified samples up to this step, if the differences of single steps are independent.
    """
    so_far = {"forward": 0.0, "backward": 0.0}
    squares = 0
    for (quantities, correct), result in zip(own, twin, strict=True):
        for name, value in result.quantities().items():
            distance = abs(value - quantities[name]) / (abs(quantities[name]) or 1.0)
            of_pass = direction(name)
            so_far[of_pass] = max(so_far[of_pass], distance if np.isfinite(distance) else 1.0)
        squares += (result.correct - correct) ** 2
        yield so_far | {"correct": sqrt(squares)}


def direction(quantity: str) -> str:
    """Return the pass that computes a quantity: forward for `"loss"` and `"layer:y"`, backward for gradients."""
    return "forward" if quantity == "loss" or quantity.endswith(":y") else "backward"
