"""Activations: elementwise functions and their derivatives."""

from __future__ import annotations

from typing import Any

from ..backend import Array, batch_first, batch_last, device_of


def relu_forward(x: Array) -> tuple[Array, Any]:
    """Return `max(x, 0)` and what `relu_backward` needs.

    Args:
        x: `(N, ...)`.
    """
    x = batch_last(x)
    device = device_of(x)
    y = device.empty(x.shape, x.dtype)
    device.map_elements(lambda x, y: device.xp.maximum(x, 0, out=y), x, y)
    return batch_first(y), y


def relu_backward(dy: Array, cache: Any) -> Array:
    """Return `dx`: the gradient where the input was positive, else 0."""
    dy = batch_last(dy)
    device = device_of(dy)
    dx = device.empty(dy.shape, dy.dtype)
    device.map_elements(lambda dy, y, dx: device.xp.multiply(dy, y > 0, out=dx), dy, cache, dx)
    return batch_first(dx)
