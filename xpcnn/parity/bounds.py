"""How far one call of a layer may differ between two devices.

`xpcnn.parity.tolerances` derives tolerances from three things: the kind of operation, the length of its sums, and the
scale of its numbers. This file finds them for one call, from the arithmetic that the layer declares
(`Module.arithmetic`), its parameters, and the arrays it was given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import sqrt
from typing import NamedTuple, get_args

import numpy as np

from ..backend import HostArray
from ..nn.module import Arithmetic
from .observe import LayerCall
from .tolerances import Kind, Precision, tolerance

# What is summed over a sample may be a function of the inputs, as in softmax: as in a loss.
_FORWARD: dict[Arithmetic, Kind] = {"exact": "exact", "elementwise": "elementwise", "reduction": "loss"}


class Bound(NamedTuple):
    """How far one array of a layer may be off: by `tolerance·scale`."""

    tolerance: float
    scale: float


def layer_bounds(call: LayerCall, parameters: Mapping[str, HostArray], precision: Precision) -> dict[str, Bound]:
    """Return the bound of each array that a layer computed, under the names of `LayerCall.outputs`.

    Args:
        call: what the layer computed on one device.
        parameters: the layer's own parameters.
        precision: the lower of the two devices'.

    Raises:
        ValueError: if the layer declares an unknown arithmetic.
    """
    if call.arithmetic not in get_args(Arithmetic):
        raise ValueError(
            f"{call.name} ({call.kind}) declares the arithmetic {call.arithmetic!r}: expected one of "
            f"{', '.join(get_args(Arithmetic))}"
        )
    if call.arithmetic in ("normalization", "channel_normalization"):
        return _normalization(call, parameters, precision)
    if call.arithmetic == "product":
        return _product(call, parameters, precision)
    sample = max(1, call.x.size // call.x.shape[0])
    return _other(call, _FORWARD[call.arithmetic], sample if call.arithmetic == "reduction" else 1, precision)


def largest(array: HostArray) -> float:
    """Return the largest finite magnitude in an array."""
    magnitudes = np.abs(array[np.isfinite(array)]).astype(np.float64)
    return float(magnitudes.max(initial=0.0))


def rms(array: HostArray) -> float:
    """Return the root mean square of an array."""
    return float(np.sqrt(np.mean(np.square(array, dtype=np.float64)))) if array.size else 0.0


def _product(call: LayerCall, parameters: Mapping[str, HostArray], precision: Precision) -> dict[str, Bound]:
    """Bound a matrix product or convolution with the layer's largest parameter of two or more axes."""
    matrices = [parameter for parameter in parameters.values() if parameter.ndim > 1]
    if not matrices:  # a product of its inputs
        return _other(call, "product", max(1, call.x.size // call.x.shape[0]), precision)
    weight = max(matrices, key=lambda matrix: matrix.size)
    call = _channels_second(call, weight)
    dy = call.y if call.dy is None else call.dy
    positions = max(array.size // _count_channels(array) for array in (call.x, call.y))

    def bound(result: HostArray, channels: int, size_of_a_term: float) -> Bound:
        length = max(1, weight.size // channels)
        # The size of a sum of terms with random signs: a smaller result is what cancellation left.
        return Bound(tolerance("product", length, precision), max(largest(result), sqrt(length) * size_of_a_term))

    bounds = {"y": bound(call.y, _count_channels(call.y), rms(weight) * rms(call.x))}
    if call.dx is not None:
        bounds["dx"] = bound(call.dx, _count_channels(call.x), rms(weight) * rms(dy))
    for name, gradient in call.gradients.items():
        if gradient.ndim > 1:
            terms, size_of_x = positions, rms(call.x)
            repeated = min(_repeated_fraction(dy), _repeated_fraction(call.x))
        else:
            terms, size_of_x = dy.size // max(1, gradient.size), 1.0
            repeated = _repeated_fraction(dy)
        scale = max(largest(gradient), _size_of_sums(dy, terms, _count_channels(dy)) * size_of_x)
        bounds[name] = Bound(tolerance("product", _effective_length(terms, repeated), precision), scale)
    return bounds


def _normalization(call: LayerCall, parameters: Mapping[str, HostArray], precision: Precision) -> dict[str, Bound]:
    gains = [parameters["weight"]] if "weight" in parameters else parameters.values()
    length = max(call.x.size // call.x.shape[0], call.x.size // _count_channels(call.x))
    x = call.x.astype(np.float64)
    # Over the batch and positions, or over each sample: the worse of the two covers whichever the layer takes.
    axes = [(0, *range(2, x.ndim)), tuple(range(1, x.ndim))] if call.arithmetic == "normalization" else [(1,)]
    moments = [(x.mean(axis), np.sqrt(x.var(axis) + 1e-6)) for axis in axes]
    offset = 1 + max(float((np.abs(mean) / deviation).max()) for mean, deviation in moments)
    slope = max(map(largest, gains), default=1.0) / min(float(deviation.min()) for _, deviation in moments)
    allowed = tolerance("normalization", _effective_length(length, _repeated_fraction(call.x)), precision)
    bounds = {"y": Bound(allowed, offset * largest(call.y))}
    if call.dy is not None:
        if call.dx is not None:
            bounds["dx"] = Bound(allowed, offset * max(largest(call.dx), slope * rms(call.dy)))
        for name, gradient in call.gradients.items():
            terms = sqrt(call.dy.size / max(1, gradient.size)) * rms(call.dy)
            bounds[name] = Bound(allowed, offset * max(largest(gradient), terms))
    return bounds


def _other(call: LayerCall, kind: Kind, length: int, precision: Precision) -> dict[str, Bound]:
    """Bound a layer whose outputs are sums of at most `length` terms."""
    bounds = {"y": Bound(tolerance(kind, length, precision), largest(call.y))}
    backward: Kind = "product" if kind == "product" else "loss"
    if call.dy is None:
        return bounds
    if call.dx is not None:
        # Where an input went into several outputs, their gradients are summed.
        summed = max(length, call.y.size // max(1, call.x.size))
        bounds["dx"] = Bound(tolerance(backward, summed, precision), max(largest(call.dx), rms(call.dy)))
    for name, gradient in call.gradients.items():
        # Summed over the batch, and over all positions where the parameter has none of its own.
        terms = max(1, call.dy.size // max(1, gradient.size))
        length = _effective_length(terms, _repeated_fraction(call.dy))
        scale = max(largest(gradient), _size_of_sums(call.dy, terms, gradient.size) * max(1.0, rms(call.x)))
        bounds[name] = Bound(tolerance(backward, length, precision), scale)
    return bounds


def _size_of_sums(dy: HostArray, terms: int, sums: int) -> float:
    """Return the size of the numbers that are rounded when gradients are summed, `terms` of them in each of the sums.

    That is the size of a sum of terms with random signs, or the largest magnitude that a running sum reaches, in the
    order in memory. Neighbouring gradients are alike, and those before a batch normalization sum to 0 exactly. So a
    running sum may wander much farther from 0 than where it ends.
    """
    rows = _channels(dy).reshape(sums if sums and dy.size % sums == 0 else _count_channels(dy), -1)
    return max(sqrt(terms) * rms(dy), largest(np.cumsum(rows, axis=1, dtype=np.float64)))


def _repeated_fraction(array: HostArray) -> float:
    """Return the largest fraction of a channel that is one and the same number other than 0."""
    channels = _channels(array)
    length: int = channels.shape[1]
    if length < 64:
        return 0.0
    most = 0
    for sample in channels[:, :: max(1, length // 1024)]:
        values, counts = np.unique(sample, return_counts=True)
        most = max(most, int(counts[values != 0].max(initial=0)) * length // sample.size)
    return most / length


def _effective_length(length: int, repeated: float) -> int:
    """Return the length of a sum of different terms with the error of one in which a fraction of the terms is repeated.

    Adding the same number n times, such as a picture's background, rounds in the same direction each time. These errors
    grow with n, not with its root: `√(K + n²)` takes the place of `√K`.
    """
    return int(length + (repeated * length) ** 2)


def _channels(array: HostArray) -> HostArray:
    """Return `(C, positions·N)`, in the order in which activations lie in memory."""
    C = _count_channels(array)
    return array.reshape(len(array), C, -1).transpose(1, 2, 0).reshape(C, -1)


def _count_channels(array: HostArray) -> int:
    return array.shape[1] if array.ndim > 1 else 1


def _channels_second(call: LayerCall, weight: HostArray) -> LayerCall:
    """Return the call with its channels in axis 1, if the product with a matrix was taken over the last axis."""
    ends = sorted((call.x.shape[-1], call.y.shape[-1]))
    if weight.ndim != 2 or min(call.x.ndim, call.y.ndim) < 3 or sorted(weight.shape) != ends:
        return call
    dy, dx = (None if array is None else np.moveaxis(array, -1, 1) for array in (call.dy, call.dx))
    return replace(call, x=np.moveaxis(call.x, -1, 1), y=np.moveaxis(call.y, -1, 1), dy=dy, dx=dx)
