"""Activations: ReLU, any elementwise function given with its derivative, and softmax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..backend import Array, batch_first, batch_last, chain, device_of


def relu_forward(x: Array) -> tuple[Array, Any]:
    """Return `max(x, 0)` and what `relu_backward` needs.

    Args:
        x: `(N, ...)`.
    """
    x = batch_last(x)
    device = device_of(x)
    y = device.empty(x.shape, x.dtype)

    # NumPy takes a third of the time it takes for the larger of an array and a number.
    device.map_elements(lambda x, y: device.xp.clip(x, 0, device.xp.inf, out=y), x, y)
    return batch_first(y), y


@chain
def _select(dy: Array, y: Array, dx: Array) -> None:
    dx[...] = y > 0  # converted once: to multiply numbers by truth values takes longer
    dx *= dy


def relu_backward(dy: Array, cache: Any) -> Array:
    """Return `dx`: the gradient where the input was positive, else 0."""
    dy = batch_last(dy)
    device = device_of(dy)
    dx = device.empty(dy.shape, dy.dtype)
    device.map_elements(_select, dy, cache, dx)
    return batch_first(dx)


def elementwise_forward(x: Array, function: Callable[[Array], Array]) -> tuple[Array, Any]:
    """Return `function(x)` and what `elementwise_backward` needs.

    Args:
        x: `(N, ...)`.
        function: an elementwise function; called on parts of `x`, as arrays of one axis.
    """
    x = batch_last(x)
    device = device_of(x)
    y = device.empty(x.shape, x.dtype)

    def apply(x: Array, y: Array) -> None:
        y[...] = function(x)

    device.map_elements(apply, x, y, in_pieces=True)
    return batch_first(y), (x, y)


def elementwise_backward(dy: Array, cache: Any, derivative: Callable[[Array, Array], Array]) -> Array:
    """Return `dx = dy·derivative(x, y)`.

    Args:
        dy: gradient of the loss by the output, `(N, ...)`.
        cache: what the forward call returned.
        derivative: from matching parts of the input and the output.
    """
    dy = batch_last(dy)
    device = device_of(dy)
    dx = device.empty(dy.shape, dy.dtype)

    def apply(x: Array, y: Array, dy: Array, dx: Array) -> None:
        device.xp.multiply(dy, derivative(x, y), out=dx)

    device.map_elements(apply, *cache, dy, dx, in_pieces=True)
    return batch_first(dx)


def softmax_forward(x: Array, dim: int) -> tuple[Array, Any]:
    """Return `exp(x)` as shares of its sum along one axis, and what `softmax_backward` needs.

    Computed from `x` less its maximum, so that nothing over- or underflows.

    Args:
        x: `(N, ...)`.
        dim: the axis along which the shares add up to 1; negative numbers count from the last.

    Raises:
        ValueError: if there is no such axis.
    """
    if not -x.ndim <= dim < x.ndim:
        raise ValueError(f"softmax along axis {dim} of an input of {x.ndim} axes, {x.shape}")
    axis = (dim - 1) % x.ndim  # the batch comes last in memory
    x = batch_last(x)
    y = device_of(x).xp.exp(x - x.max(axis=axis, keepdims=True))
    y /= y.sum(axis=axis, keepdims=True)
    return batch_first(y), (y, axis)


def softmax_backward(dy: Array, cache: Any) -> Array:
    """Return `dx = y·(dy - Σ dy·y)`, the sum along the axis of the forward call."""
    y, axis = cache
    dy = batch_last(dy)
    return batch_first(y * (dy - (dy * y).sum(axis=axis, keepdims=True)))
