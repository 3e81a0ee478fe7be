"""Elementwise operations: any function given with its derivative, and the sum of two arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..backend import Array, batch_first, batch_last, device_of
from .checks import check_arrays, check_gradient, check_input


def elementwise_forward(x: Array, function: Callable[[Array], Array]) -> tuple[Array, Any]:
    """Return `function(x)` and what `elementwise_backward` needs.

    Args:
        x: `(N, ...)`.
        function: an elementwise function; called on parts of `x`, which may be flattened to one axis.
    """
    device = check_input("elementwise_forward", x)
    x = batch_last(x)
    y = device.empty(x.shape, x.dtype)

    def apply(x: Array, y: Array) -> None:
        y[...] = function(x)

    device.map_elements(apply, x, y, in_pieces=True)
    return batch_first(y), (x, y)


def elementwise_backward(dy: Array, cache: Any, derivative: Callable[[Array, Array], Array]) -> Array:
    """Return `dx = dy·derivative(x, y)`.

    Args:
        dy: gradient w.r.t. the output, `(N, ...)`.
        cache: what the forward call returned.
        derivative: called on matching parts of the input and the output, which may be flattened.
    """
    dy = check_gradient("elementwise_backward", dy, cache[1].shape, cache[1].dtype)
    device = device_of(dy)
    dx = device.empty(dy.shape, dy.dtype)

    def apply(x: Array, y: Array, dy: Array, dx: Array) -> None:
        device.xp.multiply(dy, derivative(x, y), out=dx)

    device.map_elements(apply, *cache, dy, dx, in_pieces=True)
    return batch_first(dx)


def add(x: Array, y: Array) -> Array:
    """Return `x + y` in the batch-last layout.

    Args:
        x, y: arrays of one shape, `(N, ...)`.

    Raises:
        TypeError: if one is not an array.
        ValueError: if shapes or dtypes differ, or are not of floats.
    """
    device = check_input("add", x)
    check_arrays("add", y=y)
    if x.shape != y.shape or x.dtype != y.dtype:
        raise ValueError(
            f"expected two inputs of one shape and dtype to add, got {x.shape} {x.dtype} and {y.shape} {y.dtype}"
        )
    x, y = batch_last(x), batch_last(y)
    total = device.empty(x.shape, x.dtype)
    device.map_elements(lambda x, y, total: device.xp.add(x, y, out=total), x, y, total)
    return batch_first(total)
