"""Max pooling: for each element of the window in turn, all positions, images and channels at once.

Or, where that is faster on the device, on planes: see `planes.py` and `max_pool_planes.py`. There each gradient is
added to its pixel on its own, which takes half the time of a product with a mask for each element of the window.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, inf
from typing import Any, NamedTuple

from ..backend import (
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
from .activation import clip_gradient
from .checks import check_gradient, check_images, check_input
from .max_pool_planes import argmax_finder
from .planes import Axis, make_axes, overlapping, piece_slices, pooling_work, uses_planes, window_reducer
from .windows import IntOrPair, Limits, Padding, Pair, Window, ceil_mode_window, finish, offsets, pooling_window

_LEAST_POSITIONS = 1 << 17  # in a part: in shorter operations, threads mostly wait for each other


class _Cache(NamedTuple):
    argmax: Array  # (C, OH, OW, N): index in the window of its first maximum or last NaN, kh·KW + kw
    window: Window
    size: tuple[int, int]  # (H, W)
    dtype: Any
    clipped: tuple[Array, Limits] | None  # the output (C, OH, OW, N) and the limits it was clipped to


def max_pool2d_forward(
    x: Array,
    kernel_size: IntOrPair,
    *,
    stride: IntOrPair | None = None,
    padding: Padding = 0,
    dilation: IntOrPair = 1,
    ceil_mode: bool = False,
    save_for_backward: bool = True,
    limits: Limits | None = None,
) -> tuple[Array, Any]:
    """Return the maximum under each position of a window; NaN if there is one.

    Args:
        x: `(N, C, H, W)`.
        kernel_size: height and width of the window, one number or a pair.
        stride: step between positions; None for the size of the window.
        padding: rows and columns around the image that never are the maximum; at most half the window.
        dilation: step between the elements of the window.
        ceil_mode: whether the number of positions is rounded up: see `windows.ceil_mode_window`.
        save_for_backward: whether `max_pool2d_backward` will be called. Without it only the maxima are computed.
        limits: what the output is clipped to, `(0, inf)` for a ReLU after it; None for nothing. The backward pass is
            that of both.

    Returns:
        `y (N, C, OH, OW)` and what `max_pool2d_backward` needs, or None.

    Raises:
        ValueError: if the shape or an option does not fit.
    """
    device = check_input("max_pool2d_forward", x, "(N, C, H, W)")
    check_images(x)
    window = pooling_window(kernel_size, stride, padding, dilation)
    x = batch_last(x)
    C, H, W, N = x.shape
    if ceil_mode:
        window = ceil_mode_window(window, H, W)
    OH, OW = window.output_size(H, W)
    KH, KW = window.kernel
    y = device.empty((C, OH, OW, N), x.dtype)
    argmax: Array = device.empty(y.shape, "uint8" if KH * KW <= 256 else "int32") if save_for_backward else None
    on_planes = uses_planes(window, x, device) and (argmax is None or argmax.dtype == "uint8")
    axes = make_axes(window, H, W) if on_planes else None

    def pool(channels: slice) -> None:
        if argmax is None:
            _write_maxima(window, axes, channels, x, y, device)
        elif axes is not None:
            for shape, pieces in piece_slices(channels, x, device):
                find = argmax_finder(axes, shape, x.dtype, argmax.dtype, device)
                for piece in pieces:
                    find(x[piece], y[piece], argmax[piece])
                    look_again(piece)
        elif device.on_host:
            _pool_by_offsets(window, x[channels], y[channels], argmax[channels], _update_maximum, _maximum_and_argmax)
            look_again(channels)
        else:
            find_nan(channels, limits)
            return
        finish(y[channels], None, limits, device)

    def look_again(channels: slice) -> None:
        """Repeat the search if there is NaN, or minus infinity, which on planes is the padding's value, too.

        On the host it is cheaper to look for them in the maxima than in each candidate. A GPU would wait for the look.
        """
        if N and not y[channels].min() > -inf:
            find_nan(channels)

    def find_nan(channels: slice, limits: Limits | None = None) -> None:
        functions = _update_maximum_or_nan, _maximum_and_argmax_or_nan
        _pool_by_offsets(window, x[channels], y[channels], argmax[channels], *functions, limits)

    work = pooling_work(window, x.size, y.size, on_planes=on_planes)
    device.map(pool, blocks(C, device.parts(work, at_most=y.size // _LEAST_POSITIONS)))
    clipped = None if limits is None else (y, limits)
    return batch_first(y), None if argmax is None else _Cache(argmax, window, (H, W), x.dtype, clipped)


def max_pool2d_backward(dy: Array, cache: Any) -> Array:
    """Return `dx (N, C, H, W)`: each gradient is added to the first maximum of its window, or to the last NaN.

    Args:
        dy: gradient w.r.t. the output, `(N, C, OH, OW)`.
        cache: what the forward call returned.
    """
    argmax, window, (H, W), dtype, clipped = cache
    dy = check_gradient("max_pool2d_backward", dy, argmax.shape, dtype)
    device = device_of(dy)
    C, OH, OW, N = dy.shape
    dx = device.empty((C, H, W, N), dy.dtype)
    by_index = device.on_host and uses_planes(window, dx, device)

    in_one_chain = clipped is not None and not device.on_host and _writes_by_one_chain(window)

    def unclipped(channels: slice) -> Array:
        if clipped is None:
            return dy[channels]
        y, (low, high) = clipped
        block = device.scratch(dy[channels].shape, dtype, "unclipped")
        clip_gradient(dy[channels], y[channels], low, high, block)
        return block

    def scatter_channels(channels: slice) -> None:
        if clipped is not None and in_one_chain:
            y, (low, high) = clipped
            limits = y[channels], low, high if high < inf else None
            _scatter_by_offsets(window, dy[channels], argmax[channels], dx[channels], *limits)
            return
        if not by_index:
            _scatter_by_offsets(window, unclipped(channels), argmax[channels], dx[channels])
            return
        starts, steps = _pixels(window, (OH, OW), dx.shape[1:], device)
        for _, pieces in piece_slices(channels, dx, device):
            for piece in pieces:
                dx[piece] = 0
                arrays = dx[piece], argmax[piece], unclipped(piece)
                rows = (array.reshape(piece.stop - piece.start, -1) for array in arrays)
                device.add_at(starts, steps, *rows)

    # Other threads wait while `add_at` runs: to share the rest pays for many gradients only.
    work = pooling_work(window, dy.size, dy.size, on_planes=by_index)
    device.map(scatter_channels, blocks(C, device.parts(work, at_most=dy.size // _LEAST_POSITIONS)))
    return batch_first(dx)


def _write_maxima(
    window: Window, axes: tuple[Axis, Axis] | None, channels: slice, x: Array, y: Array, device: Device
) -> None:
    xp = device.xp
    if axes is not None:
        for shape, pieces in piece_slices(channels, x, device):
            reduce = window_reducer(xp.maximum, axes, shape, x.dtype, -inf, device)
            for piece in pieces:
                y[piece] = reduce(x[piece])
        return
    x, y = x[channels], y[channels]
    window_offsets = offsets(window, *y.shape[1:3], *x.shape[1:3])
    candidates = [x[:, rows, cols] for _, _, (rows, cols) in window_offsets]
    if not any(window.padding) and len(candidates) <= _MAX_FUSED_OFFSETS:
        _maximum(y, *candidates)
        return
    y[...] = -inf
    for (_, (rows, cols), _), candidate in zip(window_offsets, candidates, strict=True):
        xp.maximum(y[:, rows, cols], candidate, out=y[:, rows, cols])


def _pool_by_offsets(
    window: Window,
    x: Array,
    y: Array,
    argmax: Array,
    update: Callable[..., None],
    update_by_all: Callable[..., None],
    limits: Limits | None = None,
) -> None:
    """Write the maxima and their indices by chains: one that updates them by one candidate, and one for all at once."""
    low, high = limits or (None, None)
    (OH, OW), (KH, KW) = y.shape[1:3], window.kernel
    window_offsets = offsets(window, OH, OW, *x.shape[1:3])
    candidates = [x[:, rows, cols] for _, _, (rows, cols) in window_offsets]
    if not any(window.padding) and len(candidates) <= _MAX_FUSED_OFFSETS:
        update_by_all(y, argmax, low, high, *candidates)
        return
    # Where all values are minus infinity, the maximum is the window's first pixel inside the image.
    argmax[...] = 0
    for oh, kh in _first_offsets(OH, KH, window.stride[0], window.dilation[0], window.padding[0]):
        argmax[:, oh] += kh * KW
    for ow, kw in _first_offsets(OW, KW, window.stride[1], window.dilation[1], window.padding[2]):
        argmax[:, :, ow] += kw
    y[...] = -inf
    for (offset, (rows, cols), _), candidate in zip(window_offsets, candidates, strict=True):
        update(candidate, y[:, rows, cols], argmax[:, rows, cols], argmax.dtype.type(offset))
    finish(y, None, limits, device_of(y))


def _side_by_side(window: Window) -> bool:
    """Return whether windows write each pixel exactly once, except those beyond the last window."""
    return window.kernel == window.stride and window.dilation == (1, 1) and not any(window.padding)


def _writes_by_one_chain(window: Window) -> bool:
    return _side_by_side(window) and window.kernel[0] * window.kernel[1] <= _MAX_FUSED_OFFSETS


def _scatter_by_offsets(window: Window, dy: Array, argmax: Array, dx: Array, *clipped: Any) -> None:
    """Add gradients to the maxima; if all is one chain, it takes the output, and the limits to which it was clipped."""
    _, OH, OW, _ = dy.shape
    _, H, W, _ = dx.shape
    complete = _side_by_side(window) and (OH * window.kernel[0], OW * window.kernel[1]) == (H, W)
    scatter = _add_at_maximum if overlapping(window) else _write_at_maximum
    window_offsets = offsets(window, OH, OW, H, W)
    targets = [dx[:, rows, cols] for _, _, (rows, cols) in window_offsets]
    if not complete:
        dx[...] = 0
    if _writes_by_one_chain(window):
        _write_at_maxima(dy, argmax, *(clipped or (None, None, None)), *targets)
        return
    for (offset, (rows, cols), _), target in zip(window_offsets, targets, strict=True):
        index = argmax[:, rows, cols]
        scatter(dy[:, rows, cols], index, target, index.dtype.type(offset))


def _pixels(window: Window, positions: Pair, shape: Shape, device: Device) -> tuple[Array, Array]:
    """Return the pixel under the first element of the window, for each position and image, and how far others are.

    Pixels are numbered in the order of memory; the first element may be in the padding.

    Args:
        positions: how many there are, `(OH, OW)`.
        shape: of the images of a channel, `(H, W, N)`.
    """
    xp = device.xp
    (KH, KW), (sh, sw), (dh, dw), (top, _, left, _) = window
    _, W, N = shape
    rows, cols = xp.arange(positions[0]) * sh - top, xp.arange(positions[1]) * sw - left
    starts = (rows[:, None] * W + cols)[..., None] * N + xp.arange(N)
    steps = (xp.arange(KH) * (dh * W))[:, None] + xp.arange(KW) * dw
    return starts.reshape(-1), steps.reshape(-1) * N


_MAX_FUSED_OFFSETS = 9  # in one chain: a CUDA kernel's arguments, one array each, have to fit 4 KB


@chain
def _maximum(maximum: Array, *candidates: Array) -> None:
    xp = array_namespace(maximum)
    maximum[...] = candidates[0]
    for candidate in candidates[1:]:
        xp.maximum(maximum, candidate, out=maximum)


@chain
def _maximum_and_argmax(maximum: Array, argmax: Array, *operands: Any) -> None:
    _update_by_all(_update_maximum, maximum, argmax, *operands)


@chain
def _maximum_and_argmax_or_nan(maximum: Array, argmax: Array, *operands: Any) -> None:
    _update_by_all(_update_maximum_or_nan, maximum, argmax, *operands)


def _update_by_all(update: Callable[..., None], maximum: Array, argmax: Array, *operands: Any) -> None:
    low, high, *candidates = operands
    maximum[...] = candidates[0]
    argmax[...] = argmax.dtype.type(0)
    for offset, candidate in enumerate(candidates[1:], 1):
        update(candidate, maximum, argmax, argmax.dtype.type(offset))
    if low is not None:
        array_namespace(maximum).clip(maximum, low, high, out=maximum)


@chain
def _update_maximum(candidate: Array, maximum: Array, argmax: Array, offset: Any) -> None:
    xp = array_namespace(candidate)
    # Offsets come in ascending order, so the largest one at which the maximum rose is that of its first occurrence.
    xp.maximum(argmax, (candidate > maximum) * offset, out=argmax)
    xp.maximum(maximum, candidate, out=maximum)


@chain
def _update_maximum_or_nan(candidate: Array, maximum: Array, argmax: Array, offset: Any) -> None:
    """As `_update_maximum`, and the index of the last NaN if there is one, as in PyTorch."""
    xp = array_namespace(candidate)
    rises = (candidate > maximum) | (candidate != candidate)
    xp.maximum(argmax, rises * offset, out=argmax)
    xp.maximum(maximum, candidate, out=maximum)


@chain
def _write_at_maxima(dy: Array, argmax: Array, y: Array | None, low: Any, high: Any, *targets: Array) -> None:
    if y is not None:
        dy = dy * (y > low)
        if high is not None:
            dy *= y < high
    for offset, target in enumerate(targets):
        _write_at_maximum(dy, argmax, target, argmax.dtype.type(offset))


@chain
def _write_at_maximum(dy: Array, argmax: Array, dx: Array, offset: Any) -> None:
    array_namespace(dy).multiply(dy, argmax == offset, out=dx)


@chain
def _add_at_maximum(dy: Array, argmax: Array, dx: Array, offset: Any) -> None:
    dx += dy * (argmax == offset)


def _first_offsets(positions: int, kernel: int, stride: int, dilation: int, before: int) -> list[tuple[int, int]]:
    """Return the positions along one axis that start in the padding, each with its first offset inside the image."""
    firsts = [(i, ceil((before - i * stride) / dilation)) for i in range(min(positions, ceil(before / stride)))]
    return [(i, min(offset, kernel - 1)) for i, offset in firsts]
