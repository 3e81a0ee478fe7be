"""Elementwise operations: any function given with its derivative, and the sum of two arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..backend import Array, batch_first, batch_last, device_of
from .checks import check_arrays, check_gradient, check_input
from .windows import Limits, finish


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


def map_function(
    name: str,
    function: Callable[..., Any],
    x: Array,
    *numbers: Any,
    derivative: bool = False,
    in_pieces: bool = True,
) -> list[Array]:
    """Return the output of an elementwise function, and its derivative if wanted, in the batch-last layout.

    Args:
        name: of the caller, for error messages.
        function: called with parts of `x`, the numbers, and matching parts of the output, and of the derivative if
            wanted, to which it writes.
        x: `(N, ...)`.
        numbers: further arguments.
        derivative: whether it is wanted.
        in_pieces: False for a function without intermediate results.
    """
    device = check_input(name, x)
    x = batch_last(x)
    outputs = [device.empty(x.shape, x.dtype) for _ in range(1 + derivative)]
    device.map_elements(function, x, *numbers, *outputs, in_pieces=in_pieces)
    return outputs


def map_gradient(name: str, gradient: Callable[..., Any], dy: Array, saved: Array, *numbers: Any) -> Array:
    """Return the gradient w.r.t. the input of an elementwise function.

    Args:
        name: of the caller, for error messages.
        gradient: called with parts of `dy` and `saved`, the numbers, and matching parts of the result, to which it
            writes.
        dy: gradient w.r.t. the output, `(N, ...)`.
        saved: an array of the output's shape in the batch-last layout.
        numbers: further arguments.
    """
    dy = check_gradient(name, dy, saved.shape, saved.dtype)
    device = device_of(dy)
    dx = device.empty(dy.shape, dy.dtype)
    device.map_elements(gradient, dy, saved, *numbers, dx)
    return batch_first(dx)


def add(x: Array, y: Array, limits: Limits | None = None) -> Array:
    """Return `x + y` in the batch-last layout.

    Args:
        x, y: arrays of one shape, `(N, ...)`.
        limits: the lowest and highest value of the sum, beyond which it is clipped; None for neither.

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

    def compute(x: Array, y: Array, total: Array) -> None:
        device.xp.add(x, y, out=total)
        finish(total, None, limits, device)

    device.map_elements(compute, x, y, total, in_pieces=limits is not None)
    return batch_first(total)
