"""Batch normalisation: each channel to mean 0 and variance 1 over the batch and all positions.

Channels are rows of contiguous memory here. A few rows at a time stay in cache for all passes over them.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Any, NamedTuple

from ..backend import Array, Device, Shape, array_namespace, batch_first, batch_last, blocks, device_of


class Statistics(NamedTuple):
    """Each channel's mean and variance (of the values at hand: divided by their number), as `(C,)`."""

    mean: Array
    variance: Array


class _Cache(NamedTuple):
    centred: Array  # (C, ..., N): the input less its mean as rounded
    weight: Array | None
    rest: Array  # (C, 1): what that mean is short of the true one
    scale: Array  # (C, 1): 1 / standard deviation


def batch_norm_forward(
    x: Array, weight: Array | None = None, bias: Array | None = None, *, eps: float = 1e-5
) -> tuple[Array, Statistics, Any]:
    """Return `(x - mean) / √(variance + eps) · weight + bias`, per channel (Ioffe and Szegedy 2015).

    Args:
        x: `(N, C, ...)`, with more than one value per channel.
        weight, bias: `(C,)`, of the same dtype as `x`, or both None.
        eps: keeps the root away from 0 where a channel is constant.

    Returns:
        `y` in the shape of `x`, the batch's statistics, and what `batch_norm_backward` needs.

    Raises:
        ValueError: if shapes or dtypes do not fit, or a channel has fewer than two values.
    """
    _check(x, weight=weight, bias=bias)
    if x.size < 2 * x.shape[1]:
        raise ValueError(
            f"batch norm in training needs more than one value per channel, as the variance of one is 0; got {x.shape}"
        )
    x = batch_last(x)
    device = device_of(x)
    xp = device.xp
    values = x.reshape(x.shape[0], -1)
    centred, y = (device.empty(values.shape, x.dtype) for _ in range(2))
    mean, rest, variance, scale = (device.empty((x.shape[0], 1), x.dtype) for _ in range(4))
    weights, biases = _columns(weight, bias)

    def mean_of(x: Array) -> Array:
        return device.row_sums(x) / x.shape[1]

    def mean_square_of(x: Array) -> Array:
        return device.row_dots(x, x) / x.shape[1]

    def normalize(rows: slice) -> None:
        mean[rows], rest[rows], variance[rows] = centre(values[rows], centred[rows], mean_of, mean_square_of)
        scale[rows] = 1 / xp.sqrt(variance[rows] + eps)
        factor = scale[rows] if weights is None else scale[rows] * weights[rows]
        result = y[rows]
        xp.multiply(centred[rows], factor, out=result)
        result += -rest[rows] * factor if biases is None else biases[rows] - rest[rows] * factor

    device.map(normalize, _shares(values, device))
    statistics = Statistics((mean + rest)[:, 0], variance[:, 0])
    return batch_first(y.reshape(x.shape)), statistics, _Cache(centred.reshape(x.shape), weight, rest, scale)


def batch_norm_backward(
    dy: Array, cache: Any, *, input_gradient: bool = True
) -> tuple[Array | None, Array | None, Array | None]:
    """Return the gradients of the input, weight and bias of `batch_norm_forward`.

    Args:
        dy: gradient of the loss by the output, in its shape.
        cache: what the forward call returned.
        input_gradient: False to skip the gradient of the input.

    Returns:
        `dx` or None, and `dweight (C,)` and `dbias (C,)`, both None if there was no weight.
    """
    centred, weight, rest, scale = cache
    dy = batch_last(dy)
    device = device_of(dy)
    values, gradients = centred.reshape(len(centred), -1), dy.reshape(len(centred), -1)
    M = values.shape[1]
    dx = device.empty(values.shape, dy.dtype)
    dweight, dbias = (device.empty(rest.shape, dy.dtype) for _ in range(2))
    weights, _ = _columns(weight, None)

    def differentiate(rows: slice) -> None:
        dy, result = gradients[rows], dx[rows]
        dbias[rows] = device.row_sums(dy)
        dweight[rows] = (device.row_dots(dy, values[rows]) - rest[rows] * dbias[rows]) * scale[rows]
        if not input_gradient:
            return
        # dx = factor·(dy - mean(dy) - x̂·mean(dy·x̂)), gathered by powers of the centred input
        slope = scale[rows] * dweight[rows] / -M
        device.xp.multiply(values[rows], slope, out=result)
        result += dy
        result += dbias[rows] / -M - slope * rest[rows]
        result *= scale[rows] if weights is None else scale[rows] * weights[rows]

    device.map(differentiate, _shares(values, device))
    by_input = batch_first(dx.reshape(dy.shape)) if input_gradient else None
    return (by_input, None, None) if weight is None else (by_input, dweight[:, 0], dbias[:, 0])


def batch_norm_fixed(
    x: Array,
    mean: Array,
    variance: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    *,
    eps: float = 1e-5,
) -> Array:
    """Normalise as `batch_norm_forward` does, but with given statistics, as in evaluation.

    Args:
        x: `(N, C, ...)`.
        mean, variance: `(C,)`.
        weight, bias, eps: those of `batch_norm_forward`.

    Raises:
        ValueError: if shapes or dtypes do not fit.
    """
    _check(x, mean=mean, variance=variance, weight=weight, bias=bias)
    x = batch_last(x)
    device = device_of(x)
    values = x.reshape(x.shape[0], -1)
    y = device.empty(values.shape, x.dtype)
    weights, biases = _columns(weight, bias)
    means, factor = mean[:, None], 1 / device.xp.sqrt(variance[:, None] + eps)
    if weights is not None:
        factor *= weights

    def normalize(rows: slice) -> None:
        result = y[rows]
        device.xp.subtract(values[rows], means[rows], out=result)
        result *= factor[rows]
        if biases is not None:
            result += biases[rows]

    device.map(normalize, _shares(values, device))
    return batch_first(y.reshape(x.shape))


def centre(
    x: Array, y: Array, mean_of: Callable[[Array], Array], mean_square_of: Callable[[Array], Array]
) -> tuple[Array, Array, Array]:
    """Write `x` less its mean to `y`; return that mean, the mean of `y`, and the variance.

    The mean as rounded may be off by more than the values vary, if they are far from 0. The subtraction however is
    exact for values near each other, so what is left of the mean shows up in `y`, and is returned to be taken off too.
    """
    xp = array_namespace(x)
    mean = mean_of(x)
    xp.subtract(x, mean, out=y)
    rest = mean_of(y)
    return mean, rest, xp.maximum(mean_square_of(y) - rest * rest, 0)


def _shares(values: Array, device: Device) -> list[slice]:
    rows, size = values.shape[0], values.size
    in_cache = ceil(size * values.itemsize / device.tile_bytes)
    return blocks(rows, max(in_cache, device.task_count if size > 1 << 21 else 1))


def _columns(weight: Array | None, bias: Array | None) -> tuple[Array | None, Array | None]:
    return (None if weight is None else weight[:, None]), (None if bias is None else bias[:, None])


def _check(x: Array, **per_channel: Array | None) -> None:
    if x.ndim < 2:
        raise ValueError(f"expected input (N, C, ...), got {x.shape}")
    check_parameters(x, x.shape[1:2], **per_channel)


def check_parameters(x: Array, shape: Shape, **parameters: Array | None) -> None:
    """Raise ValueError unless the parameters have the shape, and the dtype of the input."""
    for name, array in parameters.items():
        if array is not None and (array.shape != shape or array.dtype != x.dtype):
            raise ValueError(
                f"expected {name} {shape} of the input's dtype {x.dtype} for input {x.shape}, "
                f"got {array.dtype} {array.shape}"
            )
