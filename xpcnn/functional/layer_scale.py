"""Layer scale: a number per channel by which a residual block's branch is multiplied before it is added."""

from __future__ import annotations

from math import ceil
from typing import Any, NamedTuple

from ..backend import (
    ELEMENT_WORK,
    Array,
    Device,
    Shape,
    array_namespace,
    batch_first,
    batch_last,
    blocks,
    chain,
    device_of,
)
from .checks import check_arrays, check_gradient, check_input


class _Cache(NamedTuple):
    branch: Array  # (C, ..., N)
    scale: Array  # (C, 1)
    shape: Shape  # of the scale as it was given


def layer_scale_forward(x: Array, branch: Array, scale: Array) -> tuple[Array, Any]:
    """Return `x + scale·branch` (Touvron, Cord, Sablayrolles, Synnaeve and Jégou 2021, section 2).

    Args:
        x: the block's input, `(N, C, ...)`.
        branch: what the block's layers made of it, in the same shape.
        scale: C numbers in any shape, such as `(C, 1, 1)`.

    Returns:
        the sum, and what `layer_scale_backward` needs.

    Raises:
        ValueError: if shapes or dtypes do not fit together.
    """
    device = check_input("layer_scale_forward", x, "(N, C, ...)", float16=False)
    check_arrays("layer_scale_forward", branch=branch, scale=scale)
    if x.ndim < 2 or x.shape != branch.shape or scale.size != x.shape[1] or not x.dtype == branch.dtype == scale.dtype:
        raise ValueError(
            f"expected input and branch (N, {scale.size}, ...) of one shape and dtype for {scale.size} scales, "
            f"got {x.shape} {x.dtype} and {branch.shape} {branch.dtype}"
        )
    cache = _Cache(batch_last(branch), scale.reshape(-1, 1), scale.shape)
    y = device.empty(cache.branch.shape, x.dtype)
    _map_rows(_scale_and_add, [cache.branch, cache.scale, batch_last(x), y], device)
    return batch_first(y), cache


def layer_scale_backward(dy: Array, cache: Any, *, scale_gradient: bool = True) -> tuple[Array, Array | None]:
    """Return the gradients w.r.t. the branch and the scale; that w.r.t. `x` is `dy` itself.

    Args:
        dy: gradient w.r.t. the output, in its shape.
        cache: what the forward call returned.
        scale_gradient: False to skip the gradient w.r.t. the scale, and return None for it.
    """
    branch, scale, shape = cache
    dy, device = check_gradient("layer_scale_backward", dy, branch.shape, branch.dtype), device_of(dy)
    dbranch = device.empty(dy.shape, dy.dtype)
    _map_rows(_scale, [dy, scale, dbranch], device)
    if not scale_gradient:
        return batch_first(dbranch), None
    dscale = device.row_dots(dy.reshape(len(dy), -1), branch.reshape(len(dy), -1))
    return batch_first(dbranch), dscale.reshape(shape)


def _map_rows(function: Any, operands: list[Array], device: Device) -> None:
    """Call a chain on rows of all operands, each a channel, in pieces that stay in cache."""
    rows = [operand.reshape(len(operand), -1) for operand in operands]
    y = rows[-1]
    parts = device.parts(2 * y.size * ELEMENT_WORK)
    pieces = max(parts, ceil(8 * y.nbytes / device.tile_bytes))
    device.map(lambda piece: function(*(operand[piece] for operand in rows)), blocks(len(y), pieces))


@chain
def _scale_and_add(branch: Array, scale: Array, x: Array, y: Array) -> None:
    array_namespace(x).multiply(branch, scale, out=y)
    y += x


@chain
def _scale(x: Array, scale: Array, y: Array) -> None:
    array_namespace(x).multiply(x, scale, out=y)
