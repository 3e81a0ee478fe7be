"""The batch-last layout: activations of shape (N, C, H, W) are stored in memory as contiguous (C, H, W, N).

Channels are then rows of contiguous memory: work per channel runs along a row, and a product of weight and
columns comes out in the layout of the output. Callers see the shape (N, C, H, W) as a transposed view.
"""

from __future__ import annotations

from .device import Array, array_namespace


def batch_last(x: Array) -> Array:
    """Return `x (N, ...)` as contiguous `(..., N)`, the batch-last layout.

    A view for everything the layers return; an array in another layout, such as contiguous NCHW, is copied.
    """
    last = x.transpose(*range(1, x.ndim), 0)
    return last if last.flags.c_contiguous else array_namespace(x).ascontiguousarray(last)


def batch_first(x: Array) -> Array:
    """Return a view of `x (..., N)` with the shape that callers see, `(N, ...)`."""
    return x.transpose(x.ndim - 1, *range(x.ndim - 1))
