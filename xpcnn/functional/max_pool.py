"""Max pooling: the window's positions are visited one offset at a time, all images and channels at once."""

from __future__ import annotations

from math import ceil
from typing import Any, NamedTuple

from ..backend import ELEMENT_WORK, Array, array_namespace, batch_first, batch_last, blocks, chain, device_of
from .windows import IntOrPair, Padding, Window, offsets, over_the_edge, pooling_window


class _Cache(NamedTuple):
    first_maximum: Array  # (C, OH, OW, N): which offset into the window held it
    window: Window
    size: tuple[int, int]


def max_pool2d_forward(
    x: Array,
    kernel_size: IntOrPair,
    *,
    stride: IntOrPair | None = None,
    padding: Padding = 0,
    dilation: IntOrPair = 1,
    ceil_mode: bool = False,
) -> tuple[Array, Any]:
    """Return the largest value under each position of a window.

    Args:
        x: `(N, C, H, W)`.
        kernel_size: size of the window.
        stride: step between positions; None for the size of the window.
        padding: what is added around the image never wins; at most half the window.
        dilation: step between the elements of the window.
        ceil_mode: whether a last window may reach over the edge: see `windows.over_the_edge`.

    Returns:
        `y (N, C, OH, OW)` and what `max_pool2d_backward` needs.

    Raises:
        ValueError: if the shape or an option does not fit.
    """
    if x.ndim != 4:
        raise ValueError(f"expected input (N, C, H, W), got {x.shape}")
    shape = pooling_window(kernel_size, stride, padding, dilation)
    x = batch_last(x)
    device = device_of(x)
    xp = device.xp
    C, H, W, N = x.shape
    if ceil_mode:
        shape = over_the_edge(shape, H, W)
    OH, OW = shape.output_size(H, W)
    KH, KW = shape.kernel
    y = device.empty((C, OH, OW, N), x.dtype)
    first_maximum = device.empty(y.shape, "uint8" if KH * KW <= 256 else "int32")
    seen = offsets(shape, OH, OW, H, W)

    def pool(channels: slice) -> None:
        best, which = y[channels], first_maximum[channels]
        candidates = [x[channels, rows, cols] for _, _, (rows, cols) in seen]
        if not any(shape.padding) and len(candidates) <= _AT_ONCE:
            _take_best(best, which, *candidates)
            return
        # Until a value rises above minus infinity, the first pixel counts as the place of the maximum.
        which[...] = 0
        for oh, kh in _first_offsets(OH, KH, shape.stride[0], shape.dilation[0], shape.padding[0]):
            which[:, oh] += kh * KW
        for ow, kw in _first_offsets(OW, KW, shape.stride[1], shape.dilation[1], shape.padding[2]):
            which[:, :, ow] += kw
        best[...] = -xp.inf
        for (offset, (rows, cols), _), candidate in zip(seen, candidates, strict=True):
            _challenge(candidate, best[:, rows, cols], which[:, rows, cols], which.dtype.type(offset))

    device.map(pool, blocks(C, device.parts(2 * y.size * KH * KW * ELEMENT_WORK)))
    return batch_first(y), _Cache(first_maximum, shape, (H, W))


def max_pool2d_backward(dy: Array, cache: Any) -> Array:
    """Return `dx (N, C, H, W)`: each gradient goes to the first maximum of its window.

    Args:
        dy: gradient of the loss by the output, `(N, C, OH, OW)`.
        cache: what the forward call returned.
    """
    first_maximum, shape, (H, W) = cache
    dy = batch_last(dy)
    device = device_of(dy)
    C, OH, OW, N = dy.shape
    dx = device.empty((C, H, W, N), dy.dtype)
    overlapping = any((k - 1) * d >= s for k, d, s in zip(shape.kernel, shape.dilation, shape.stride, strict=True))
    # Side by side, windows meet each pixel once; or not at all, at the end of the image.
    side_by_side = shape.kernel == shape.stride and shape.dilation == (1, 1) and not any(shape.padding)
    complete = side_by_side and (OH * shape.kernel[0], OW * shape.kernel[1]) == (H, W)
    pass_on = _add_if_won if overlapping else _take_if_won
    seen = offsets(shape, OH, OW, H, W)

    def unpool(channels: slice) -> None:
        places = [dx[channels, rows, cols] for _, _, (rows, cols) in seen]
        if not complete:
            dx[channels] = 0
        if side_by_side and len(places) <= _AT_ONCE:
            _share_out(dy[channels], first_maximum[channels], *places)
            return
        for (offset, (rows, cols), _), place in zip(seen, places, strict=True):
            won = first_maximum[channels, rows, cols]
            pass_on(dy[channels, rows, cols], won, place, won.dtype.type(offset))

    device.map(unpool, blocks(C, device.parts(2 * dy.size * len(seen) * ELEMENT_WORK)))
    return batch_first(dx)


_AT_ONCE = 9  # offsets in one chain, whose operands have to fit the 4 KB of a kernel's arguments


@chain
def _take_best(best: Array, which: Array, *candidates: Array) -> None:
    best[...] = candidates[0]
    which[...] = which.dtype.type(0)
    for offset, candidate in enumerate(candidates[1:], 1):
        _challenge(candidate, best, which, which.dtype.type(offset))


@chain
def _challenge(candidate: Array, best: Array, which: Array, offset: Any) -> None:
    xp = array_namespace(candidate)
    # Offsets grow, so the largest offset at which the value rose is the place of the first maximum.
    xp.maximum(which, (candidate > best) * offset, out=which)
    xp.maximum(best, candidate, out=best)


@chain
def _share_out(dy: Array, first_maximum: Array, *places: Array) -> None:
    for offset, place in enumerate(places):
        _take_if_won(dy, first_maximum, place, first_maximum.dtype.type(offset))


@chain
def _take_if_won(dy: Array, first_maximum: Array, dx: Array, offset: Any) -> None:
    array_namespace(dy).multiply(dy, first_maximum == offset, out=dx)


@chain
def _add_if_won(dy: Array, first_maximum: Array, dx: Array, offset: Any) -> None:
    dx += dy * (first_maximum == offset)


def _first_offsets(positions: int, kernel: int, stride: int, dilation: int, before: int) -> list[tuple[int, int]]:
    """Return along one axis the positions that begin in the padding, each with its first offset beyond that."""
    begin = [(i, ceil((before - i * stride) / dilation)) for i in range(min(positions, ceil(before / stride)))]
    return [(i, min(offset, kernel - 1)) for i, offset in begin]
