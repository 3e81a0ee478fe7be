"""Softmax: exponentials, normalised to sum to 1 along an axis."""

from __future__ import annotations

from typing import Any

from ..backend import Array, batch_first, batch_last
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
    xp = check_input("softmax_forward", x, float16=False).xp
    if not -x.ndim <= dim < x.ndim:
        raise ValueError(f"dim must be an axis of the input: axis {dim} does not exist in shape {x.shape}")
    axis = (dim - 1) % x.ndim  # in the batch-last layout
    x = batch_last(x)
    maximum = x.max(axis=axis, keepdims=True) if x.size else x
    y = xp.exp(x - maximum)
    y /= y.sum(axis=axis, keepdims=True)
    return batch_first(y), (y, axis)


def softmax_backward(dy: Array, cache: Any) -> Array:
    """Return `dx = y·(dy - Σ dy·y)`, with the sum along `dim`.

    Args:
        dy: gradient w.r.t. the output, `(N, ...)`.
        cache: what the forward call returned.
    """
    y, axis = cache
    dy = check_gradient("softmax_backward", dy, y.shape, y.dtype)
    return batch_first(y * (dy - (dy * y).sum(axis=axis, keepdims=True)))
