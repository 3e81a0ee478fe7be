"""Softmax: exponentials, normalised to sum to 1 along an axis."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, prod
from typing import Any

from ..backend import CHAIN_WORK, Array, Device, array_namespace, batch_first, batch_last, blocks, chain, device_of
from .checks import check_gradient, check_input


def softmax_forward(x: Array, dim: int) -> tuple[Array, Any]:
    """Return `exp(x)` normalised to sum to 1 along `dim`, and what `softmax_backward` needs.

    Computed from `x` minus its maximum, so that nothing overflows.

    Args:
        x: `(N, ...)`.
        dim: the axis along which the result sums to 1; negative numbers count from the last.

    Raises:
        ValueError: if there is no such axis.
    """
    device = check_input("softmax_forward", x, float16=False)
    if not -x.ndim <= dim < x.ndim:
        raise ValueError(f"dim must be an axis of the input: axis {dim} does not exist in shape {x.shape}")
    axis = (dim - 1) % x.ndim  # in the batch-last layout
    x = batch_last(x)
    y = device.empty(x.shape, x.dtype)

    def normalize(x: Array, y: Array) -> None:
        _exponentiate(x, x.max(axis=1, keepdims=True), y)
        y /= y.sum(axis=1, keepdims=True)

    _map(normalize, axis, device, x, y)
    return batch_first(y), (y, axis)


@chain
def _exponentiate(x: Array, maximum: Array, y: Array) -> None:
    xp = array_namespace(x)
    xp.subtract(x, maximum, out=y)
    xp.exp(y, out=y)


def softmax_backward(dy: Array, cache: Any) -> Array:
    """Return `dx = y·(dy - Σ dy·y)`, with the sum along `dim`.

    Args:
        dy: gradient w.r.t. the output, `(N, ...)`.
        cache: what the forward call returned.
    """
    y, axis = cache
    dy = check_gradient("softmax_backward", dy, y.shape, y.dtype)
    device = device_of(dy)
    dx = device.empty(dy.shape, dy.dtype)

    def differentiate(dy: Array, y: Array, dx: Array) -> None:
        device.xp.multiply(dy, y, out=dx)
        _subtract_and_multiply(dy, dx.sum(axis=1, keepdims=True), y, dx)

    _map(differentiate, axis, device, dy, y, dx)
    return batch_first(dx)


@chain
def _subtract_and_multiply(dy: Array, total: Array, y: Array, dx: Array) -> None:
    array_namespace(dy).subtract(dy, total, out=dx)
    dx *= y


def _map(function: Callable[..., None], axis: int, device: Device, *arrays: Array) -> None:
    """Call a function with matching parts of contiguous arrays of one shape, `(before, along, after)` the axis each.

    A part has all of the axis, and stays in cache for several passes over it.
    """
    first = arrays[0]
    if not first.size:
        return
    A, L, B = prod(first.shape[:axis]), first.shape[axis], prod(first.shape[axis + 1 :])
    arrays = tuple(array.reshape(A, L, B) for array in arrays)
    count = min(ceil(first.nbytes / (device.tile_bytes // 2 or 1)), max(A, B // max(1, device.long_row)))
    parts = device.parts(CHAIN_WORK * first.size, at_most=count)
    pieces = max(1, ceil(count / parts)) * parts
    with device.long_rows():
        if pieces == 1:
            function(*arrays)
        elif pieces <= A:
            device.map(lambda part: function(*(array[part] for array in arrays)), blocks(A, pieces))
        else:
            device.map(lambda part: function(*(array[..., part] for array in arrays)), blocks(B, pieces))
