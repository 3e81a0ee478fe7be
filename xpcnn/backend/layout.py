"""The order in which activations lie in memory: the batch comes last, so that channels are rows."""

from __future__ import annotations

from .device import Array, array_namespace


def batch_last(x: Array) -> Array:
    """View `x (N, ...)` as contiguous `(..., N)`, the order in which activations lie in memory.

    Free for everything the layers return; memory in another order, such as plain NCHW, is copied once.
    """
    last = x.transpose(*range(1, x.ndim), 0)
    return last if last.flags.c_contiguous else array_namespace(x).ascontiguousarray(last)


def batch_first(x: Array) -> Array:
    """View `x (..., N)` as `(N, ...)`, the shape that callers see."""
    return x.transpose(x.ndim - 1, *range(x.ndim - 1))
