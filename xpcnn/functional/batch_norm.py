"""Batch normalisation: each channel to mean 0 and variance 1 over the batch and all positions.

In the batch-last layout channels are rows of contiguous memory. They are processed a few at a time, which stay in cache
for all passes over them. Where a batch is shared by a group of processes, each measures its part, and the statistics
are of all parts together.
"""

from __future__ import annotations

from math import ceil, prod
from typing import Any, NamedTuple

from ..backend import (
    ELEMENT_WORK,
    Array,
    Device,
    Shape,
    array_namespace,
    batch_first,
    batch_last,
    blocks,
    chain,
    device_of,
)
from ..distributed import ALONE, Group
from .activation import clip_gradient
from .batch_statistics import (
    centre,
    statistics_of_group,
    values_of_processes,
    write_factors,
    write_part,
    write_statistics,
)
from .checks import check_arrays, check_gradient, check_input
from .windows import Limits


class Statistics(NamedTuple):
    """Each channel's mean and biased variance (divided by the number of values), `(C,)` each."""

    mean: Array
    variance: Array


class _Cache(NamedTuple):
    centred: Array  # (C, ..., N): the input minus its rounded mean
    weight: Array | None
    residual: Array  # (C, 1): rounding error of the mean, the mean of `centred`
    scale: Array  # (C, 1): 1 / standard deviation
    has_bias: bool
    counts: tuple[int, ...]  # of values in a channel, on each process of the group
    group: Group
    clipped: tuple[Array, Limits] | None  # the output (C, ..., N) and the limits it was clipped to


def batch_norm_forward(
    x: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    *,
    eps: float = 1e-5,
    limits: Limits | None = None,
    group: Group = ALONE,
) -> tuple[Array, Statistics, Any]:
    """Return `(x - mean) / √(variance + eps) · weight + bias`, per channel (Ioffe and Szegedy 2015).

    Args:
        x: `(N, C, ...)`, with more than one value per channel.
        weight, bias: `(C,)`, of the same dtype as `x`, or None.
        eps: added to the variance, so that a constant channel is not divided by 0.
        limits: what the output is clipped to, such as `(0, inf)` for the ReLU after it, while it is in cache; None for
            nothing.
        group: the processes that share the batch, of which `x` is this process's part.

    Returns:
        `y` in the shape of `x`, the batch's statistics, and what `batch_norm_backward` needs.

    Raises:
        ValueError: if shapes or dtypes do not fit, or a channel has fewer than two values.
    """
    device = _check("batch_norm_forward", x, weight=weight, bias=bias)
    counts = values_of_processes(x, group)
    if sum(counts) < 2:
        raise ValueError(
            f"batch norm in training needs more than one value per channel, as the variance of one is 0; got {x.shape}"
        )
    x = batch_last(x)
    values = x.reshape(x.shape[0], -1)
    length = values.shape[1]
    centred, y = (device.empty(values.shape, x.dtype) for _ in range(2))
    per_channel = device.empty((7, x.shape[0], 1), x.dtype)
    rounded, residual, variance, mean, scale, factor, shift = (per_channel[i] for i in range(7))
    low, high = limits or (None, None)

    def measure(rows: slice) -> None:
        block = centred[rows]
        sums = device.row_sums(values[rows])
        centre(values[rows], sums, length, block)
        moments = sums, *device.row_sums_and_dots(block, block), length
        if group.size > 1:
            write_part(*moments, rounded[rows], residual[rows], variance[rows])
            return
        numbers = eps, _column(weight, rows), _column(bias, rows)
        write_statistics(*moments, *numbers, *(per_channel[i][rows] for i in range(1, 7)))
        finish(rows)

    def finish(rows: slice) -> None:
        _scale_and_shift(centred[rows], factor[rows], shift[rows], low, high, y[rows])

    row_blocks = blocks_in_cache(values, device)
    device.map(measure, row_blocks)
    if group.size > 1:
        mean, variance, residual = statistics_of_group(per_channel[:3], counts, group)
        whole = slice(None)
        write_factors(variance, residual, eps, _column(weight, whole), _column(bias, whole), scale, factor, shift)
        device.map(finish, row_blocks)
    y = y.reshape(x.shape)
    clipped = None if limits is None else (y, limits)
    cache = _Cache(centred.reshape(x.shape), weight, residual, scale, bias is not None, counts, group, clipped)
    return batch_first(y), Statistics(mean[:, 0], variance[:, 0]), cache


@chain
def _scale_and_shift(x: Array, factor: Array, shift: Array, low: float | None, high: float | None, y: Array) -> None:
    xp = array_namespace(x)
    xp.multiply(x, factor, out=y)
    y += shift
    if low is not None:
        xp.clip(y, low, high, out=y)


def batch_norm_backward(
    dy: Array, cache: Any, *, input_gradient: bool = True
) -> tuple[Array | None, Array | None, Array | None]:
    """Return the gradients w.r.t. the input, weight and bias of `batch_norm_forward`.

    Args:
        dy: gradient w.r.t. the output, in the shape of `x`.
        cache: what the forward call returned.
        input_gradient: False to skip the gradient w.r.t. the input.

    Returns:
        `dx`, `dweight (C,)` and `dbias (C,)`, each None if it was not asked for or there was no such argument.
    """
    centred, weight, residual, scale, has_bias, counts, group, clipped = cache
    dy = check_gradient("batch_norm_backward", dy, centred.shape, centred.dtype)
    device = device_of(dy)
    values, gradients = centred.reshape(len(centred), -1), dy.reshape(len(centred), -1)
    count = sum(counts)
    dx = device.empty(values.shape, dy.dtype)
    per_channel = device.empty((5, *residual.shape), dy.dtype)
    dweight, dbias, slope, shift, factor = (per_channel[i] for i in range(5))

    def unclipped(rows: slice) -> Array:
        if clipped is None:
            return gradients[rows]
        output, (low, high) = clipped
        block = device.scratch(gradients[rows].shape, dy.dtype, "unclipped")
        clip_gradient(gradients[rows], output.reshape(values.shape)[rows], low, high, block)
        return block

    def sum_up(rows: slice) -> None:
        block = unclipped(rows)
        sums = *device.row_sums_and_dots(block, values[rows]), residual[rows], scale[rows]
        if group.size > 1:
            _parameter_gradients(*sums, dweight[rows], dbias[rows])
            return
        _backward_coefficients(*sums, _column(weight, rows), -count, *(per_channel[i][rows] for i in range(5)))
        write(rows, block)

    def write(rows: slice, block: Array) -> None:
        if input_gradient:
            _write_dx(block, values[rows], slope[rows], shift[rows], factor[rows], dx[rows])

    row_blocks = blocks_in_cache(values, device)
    device.map(sum_up, row_blocks)
    if group.size > 1:
        totals = per_channel[:2].copy()  # what is returned is of this part, as all gradients of parameters are
        group.sum(totals)
        _coefficients(totals[0], totals[1], residual, scale, _column(weight, slice(None)), -count, slope, shift, factor)
        if not counts[group.rank]:
            dx.fill(0)  # of samples that only stand in
        else:
            device.map(lambda rows: write(rows, unclipped(rows)), row_blocks)
    dx = batch_first(dx.reshape(dy.shape)) if input_gradient else None
    return dx, None if weight is None else dweight[:, 0], dbias[:, 0] if has_bias else None


# dx = factor·(dy - mean(dy) - x̂·mean(dy·x̂)) = factor·(dy + slope·centred + shift), as x̂ = (centred - residual)·scale


@chain
def _backward_coefficients(sums: Array, dots: Array, residual: Array, scale: Array, *operands: Any) -> None:
    weight, minus_count, dweight, dbias, *coefficients = operands
    _write_parameter_gradients(sums, dots, residual, scale, dweight, dbias)
    _write_coefficients(dweight, dbias, residual, scale, weight, minus_count, *coefficients)


@chain
def _parameter_gradients(sums: Array, dots: Array, residual: Array, scale: Array, *results: Array) -> None:
    _write_parameter_gradients(sums, dots, residual, scale, *results)


@chain
def _coefficients(dweight: Array, dbias: Array, residual: Array, scale: Array, *operands: Any) -> None:
    _write_coefficients(dweight, dbias, residual, scale, *operands)


def _write_parameter_gradients(sums: Array, dots: Array, residual: Array, scale: Array, *results: Array) -> None:
    dweight, dbias = results
    dbias[...] = sums
    dweight[...] = (dots - residual * sums) * scale


def _write_coefficients(dweight: Array, dbias: Array, residual: Array, scale: Array, *operands: Any) -> None:
    weight, minus_count, slope, shift, factor = operands
    slope[...] = scale * dweight / minus_count
    shift[...] = dbias / minus_count - slope * residual
    factor[...] = scale if weight is None else scale * weight


@chain
def _write_dx(dy: Array, centred: Array, slope: Array, shift: Array, factor: Array, dx: Array) -> None:
    array_namespace(dy).multiply(centred, slope, out=dx)
    dx += dy
    dx += shift
    dx *= factor


def batch_norm_fixed(
    x: Array,
    mean: Array,
    variance: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    *,
    eps: float = 1e-5,
) -> Array:
    """Return `(x - mean) / √(variance + eps) · weight + bias` with given statistics, as in evaluation.

    Args:
        x: `(N, C, ...)`.
        mean, variance: `(C,)`, of the same dtype as `x`.
        weight, bias, eps: those of `batch_norm_forward`.

    Returns:
        `y` in the shape of `x`.

    Raises:
        ValueError: if shapes or dtypes do not fit.
    """
    device = _check("batch_norm_fixed", x, mean=mean, variance=variance, weight=weight, bias=bias)
    x = batch_last(x)
    values = x.reshape(x.shape[0], prod(x.shape[1:]))
    y = device.empty(values.shape, x.dtype)

    def normalize(rows: slice) -> None:
        columns = (_column(vector, rows) for vector in (mean, variance, weight, bias))
        _normalize(values[rows], *columns, eps, y[rows])

    device.map(normalize, blocks_in_cache(values, device))
    return batch_first(y.reshape(x.shape))


def batch_norm_fixed_backward(
    dy: Array, shape: Shape, variance: Array, weight: Array | None = None, *, eps: float = 1e-5
) -> Array:
    """Return the gradient w.r.t. the input of `batch_norm_fixed`, `dy · weight / √(variance + eps)`.

    Args:
        dy: gradient w.r.t. the output.
        shape: of the output, `(N, C, ...)`.
        variance, weight, eps: those of `batch_norm_fixed`.
    """
    dy = check_gradient("batch_norm_fixed_backward", dy, (*shape[1:], shape[0]), variance.dtype)
    device = device_of(dy)
    gradients = dy.reshape(len(dy), prod(dy.shape[1:]))
    dx = device.empty(gradients.shape, dy.dtype)

    def differentiate(rows: slice) -> None:
        _scale_fixed(gradients[rows], _column(variance, rows), _column(weight, rows), eps, dx[rows])

    device.map(differentiate, blocks_in_cache(gradients, device))
    return batch_first(dx.reshape(dy.shape))


@chain
def _scale_fixed(dy: Array, variance: Array, weight: Array | None, eps: float, dx: Array) -> None:
    xp = array_namespace(dy)
    factor = 1 / xp.sqrt(variance + eps)
    if weight is not None:
        factor = factor * weight
    xp.multiply(dy, factor, out=dx)


@chain
def _normalize(x: Array, mean: Array, variance: Array, *operands: Any) -> None:
    weight, bias, eps, y = operands
    xp = array_namespace(x)
    factor = 1 / xp.sqrt(variance + eps)
    if weight is not None:
        factor = factor * weight
    xp.subtract(x, mean, out=y)
    y *= factor
    if bias is not None:
        y += bias


def blocks_in_cache(values: Array, device: Device) -> list[slice]:
    """Return blocks of rows small enough to stay in cache for all passes over them."""
    in_cache = ceil(values.size * values.itemsize / device.tile_bytes)
    return blocks(len(values), max(in_cache, device.parts(values.size * ELEMENT_WORK)))


def _column(vector: Array | None, rows: slice) -> Array | None:
    return None if vector is None else vector[rows, None]


def _check(function: str, x: Array, **per_channel: Array | None) -> Device:
    device = check_input(function, x, "(N, C, ...)", float16=False)
    if x.ndim < 2:
        raise ValueError(f"expected input (N, C, ...), got {x.shape}")
    check_parameters(function, x, x.shape[1:2], **per_channel)
    return device


def check_parameters(function: str, x: Array, shape: Shape, **parameters: Array | None) -> None:
    """Raise TypeError or ValueError unless the parameters are arrays of this shape and of the input's dtype."""
    for name, array in parameters.items():
        if array is None:
            continue
        check_arrays(function, **{name: array})
        if array.shape != shape or array.dtype != x.dtype:
            raise ValueError(
                f"expected {name} {shape} of the input's dtype {x.dtype} for input {x.shape}, "
                f"got {array.dtype} {array.shape}"
            )
