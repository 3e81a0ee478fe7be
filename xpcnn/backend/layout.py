"""The batch-last layout: activations of shape (N, C, H, W) are stored in memory as contiguous (C, H, W, N).

Channels are then rows of contiguous memory: work per channel runs along a row, and a product of weight and
columns comes out in the layout of the output. Callers see the shape (N, C, H, W) as a transposed view.
"""

from __future__ import annotations

from .device import Array, array_namespace, device_of

# The order of the axes, by their number (NumPy allows 64): made here once, as a small step transposes thirty times.
_BATCH_LAST = [(*range(1, axes), 0) for axes in range(65)]
_BATCH_FIRST = [(axes - 1, *range(axes - 1)) for axes in range(65)]


def batch_last(x: Array) -> Array:
    """Return `x (N, ...)` as contiguous `(..., N)`, the batch-last layout.

    A view for everything the layers return; an array in another layout, such as contiguous NCHW, is copied.
    """
    last = x.transpose(_BATCH_LAST[x.ndim])
    if last.flags.c_contiguous:
        return last
    if x.flags.c_contiguous:
        return device_of(x).transposed(x.reshape(len(x), -1)).reshape(last.shape)
    return array_namespace(x).ascontiguousarray(last)


def batch_first(x: Array) -> Array:
    """Return a view of `x (..., N)` with the shape that callers see, `(N, ...)`."""
    return x.transpose(_BATCH_FIRST[x.ndim])
