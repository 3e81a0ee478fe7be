"""What a layer may differ by from device to device: the kind and length of its sums, and the scale of its numbers.

`xpcnn.parity.tolerances` says how far apart two right results may be, relative to a scale. This file finds kind,
length and scale for one call of a layer, from the layer's class and the arrays it was given.
"""

from __future__ import annotations

from math import sqrt
from typing import NamedTuple

import numpy as np

from ..backend import HostArray
from .observe import LayerCall
from .tolerances import Precision, tolerance

_EXACT = ("Flatten", "Identity", "ReLU", "MaxPool2d")  # they move or select values in their forward pass


class Bound(NamedTuple):
    """How far one array of a layer may be off: at most `tolerance·scale`."""

    tolerance: float
    scale: float


def layer_bounds(call: LayerCall, parameters: dict[str, HostArray], precision: Precision) -> dict[str, Bound]:
    """Return the bound of each array that a layer computed, under the names of `LayerCall.outputs`.

    Args:
        call: what the layer computed on one device.
        parameters: the layer's own parameters.
        precision: the lower of the two devices'.
    """
    weight = parameters.get("weight")
    if "Norm" in call.kind:
        return _normalisation(call, weight, precision)
    if weight is not None and weight.ndim > 1:
        return _product(call, weight, precision)
    return _other(call, precision)


def largest(array: HostArray) -> float:
    """Return the largest finite magnitude in an array."""
    magnitudes = np.abs(array[np.isfinite(array)]).astype(np.float64)
    return float(magnitudes.max(initial=0.0))


def rms(array: HostArray) -> float:
    """Return the root of the mean square."""
    return float(np.sqrt(np.mean(np.square(array, dtype=np.float64)))) if array.size else 0.0


def _product(call: LayerCall, weight: HostArray, precision: Precision) -> dict[str, Bound]:
    dy = call.y if call.dy is None else call.dy
    positions = max(array.size // array.shape[1] for array in (call.x, call.y))

    def bound(result: HostArray, length: int, size_of_a_term: float, terms: int | None = None) -> Bound:
        # The sum of terms with random signs: a result below it is what cancellation left.
        random_walk = sqrt(length if terms is None else terms) * size_of_a_term
        return Bound(tolerance("product", length, precision), max(largest(result), random_walk))

    bounds = {"y": bound(call.y, max(1, weight.size // call.y.shape[1]), rms(weight) * rms(call.x))}
    if call.dx is not None:
        bounds["dx"] = bound(call.dx, max(1, weight.size // call.x.shape[1]), rms(weight) * rms(dy))
    for name, gradient in call.gradients.items():
        if gradient.ndim > 1:
            alike = min(_share_of_one_value(dy), _share_of_one_value(call.x))
            found = bound(gradient, _equivalent(positions, alike), rms(dy) * rms(call.x), positions)
        else:
            terms = dy.size // max(1, gradient.size)
            found = bound(gradient, _equivalent(terms, _share_of_one_value(dy)), rms(dy), terms)
        bounds[name] = found._replace(scale=max(found.scale, _drift(dy) * (rms(call.x) if gradient.ndim > 1 else 1.0)))
    return bounds


def _drift(dy: HostArray) -> float:
    """Return the largest partial sum of a channel's gradients, positions first as they lie in memory.

    Neighbouring gradients are alike, and those before a batch normalisation sum to 0 exactly: the sum wanders farther
    off than one of random signs, to come back at the end.
    """
    return largest(np.cumsum(_channels(dy), axis=1, dtype=np.float64))


def _share_of_one_value(array: HostArray) -> float:
    """Return which part of a channel one and the same number makes up, other than 0, in the worst channel."""
    rows = _channels(array)
    worst = 0
    for row in rows[:, :: max(1, rows.shape[1] // 1024)]:
        values, counts = np.unique(row, return_counts=True)
        worst = max(worst, int(counts[values != 0].max(initial=0)) * rows.shape[1] // row.size)
    return worst / rows.shape[1] if rows.shape[1] >= 64 else 0.0


def _equivalent(length: int, alike: float) -> int:
    """Return the length of a sum of unlike terms that gathers the error of one in which a part of the terms is alike.

    Adding one number again and again, the ground of a picture say, is rounded in the same direction each time: these
    errors grow with their number n and not with its root, so that `√(K + n²)` takes the place of `√K`.
    """
    return int(length + (alike * length) ** 2)


def _channels(array: HostArray) -> HostArray:
    """Return `(C, positions·N)` in the order in which activations lie in memory."""
    return array.reshape(*array.shape[:2], -1).transpose(1, 2, 0).reshape(array.shape[1], -1)


def _normalisation(call: LayerCall, weight: HostArray | None, precision: Precision) -> dict[str, Bound]:
    length = max(call.x.size // call.x.shape[0], call.x.size // call.x.shape[1])
    x = call.x.astype(np.float64)
    # Over the batch and the positions, or over each sample: which of them the layer takes, the worse one covers.
    moments = [
        (x.mean(axis), np.sqrt(x.var(axis) + 1e-5)) for axis in ((0, *range(2, x.ndim)), tuple(range(1, x.ndim)))
    ]
    offset = 1 + max(float((np.abs(mean) / deviation).max()) for mean, deviation in moments)
    slope = (1.0 if weight is None else largest(weight)) / min(float(deviation.min()) for _, deviation in moments)
    allowed = tolerance("normalisation", _equivalent(length, _share_of_one_value(call.x)), precision)
    bounds = {"y": Bound(allowed, offset * largest(call.y))}
    if call.dy is not None:
        if call.dx is not None:
            bounds["dx"] = Bound(allowed, offset * max(largest(call.dx), slope * rms(call.dy)))
        for name, gradient in call.gradients.items():
            terms = sqrt(call.dy.size / max(1, gradient.size)) * rms(call.dy)
            bounds[name] = Bound(allowed, offset * max(largest(gradient), terms))
    return bounds


def _other(call: LayerCall, precision: Precision) -> dict[str, Bound]:
    """Activations, pooling, dropout; for layers this package does not know, allow for sums over a whole sample."""
    if call.kind in _EXACT:
        kind, length = "exact", 1
    elif call.x.shape == call.y.shape and "oftmax" not in call.kind:
        kind, length = "elementwise", 1
    else:
        kind, length = "loss", max(1, call.x.size // call.x.shape[0])
    bounds = {}
    for name, array in call.outputs():
        if name == "y":
            bounds[name] = Bound(tolerance(kind, length, precision), largest(array))  # type: ignore[arg-type]
        elif name == "dx":
            # Overlapping windows add a gradient up from several places.
            terms = tolerance("loss", length, precision)
            bounds[name] = Bound(terms, max(largest(array), 0.0 if call.dy is None else rms(call.dy)))
        else:
            summed = max(1, call.x.size // max(1, array.size))
            size = sqrt(summed) * (0.0 if call.dy is None else rms(call.dy) * max(1.0, rms(call.x)))
            bounds[name] = Bound(tolerance("loss", summed, precision), max(largest(array), size))
    return bounds
