"""Dropout with a mask that is the same on every device."""

from __future__ import annotations

from typing import Any

from ..backend import Array, array_namespace, batch_first, batch_last, chain
from ..distributed import ALONE, Group
from ..random import counter_bits
from .checks import check_gradient, check_input


def dropout_forward(x: Array, p: float, key: tuple[int, Any], *, group: Group = ALONE) -> tuple[Array, Any]:
    """Zero each element with probability `p` and scale the others by `1 / (1 - p)`, which keeps the mean.

    Srivastava et al. 2014, in the "inverted" form, in which evaluation is the identity.

    Args:
        x: `(N, ...)`.
        p: probability of zeroing, `0 <= p < 1`, rounded to a multiple of 2⁻³².
        key: two 32-bit integers, of which the second may be an array `(1,)` of uint32; the same key and shape give the
            same mask on every device.
        group: the processes that share the batch, of which `x` is this process's part, with its part of the mask.

    Returns:
        `y` in the shape of `x`, and what `dropout_backward` needs.

    Raises:
        ValueError: if `p` is out of range.
    """
    if not 0 <= p < 1:
        raise ValueError(f"p must be at least 0 and below 1, got {p}")
    device = check_input("dropout_forward", x)
    x = batch_last(x)
    xp = device.xp
    part = None
    if group.size > 1:
        rows = x.shape[-1] // group.rows  # of each sample
        part = group.first * rows, x.shape[-1], group.total * rows
    bits = counter_bits(xp, x.size, key, part).reshape(x.shape)
    scale, y = (device.empty(x.shape, x.dtype) for _ in range(2))
    threshold = xp.uint32(min(round(p * 2**32), 2**32 - 1))
    device.map_elements(_drop, x, bits, scale, y, threshold, 1 / (1 - p), in_pieces=True)
    return batch_first(y), scale


@chain
def _drop(x: Array, bits: Array, scale: Array, y: Array, threshold: Any, factor: float) -> None:
    scale[...] = bits >= threshold
    scale *= factor
    array_namespace(x).multiply(x, scale, out=y)


def dropout_backward(dy: Array, cache: Any) -> Array:
    """Return `dx`, the gradient with the forward pass's mask and scale.

    Args:
        dy: gradient w.r.t. the output, `(N, ...)`.
        cache: what the forward call returned.
    """
    dy = check_gradient("dropout_backward", dy, cache.shape, cache.dtype)
    return batch_first(dy * cache)
