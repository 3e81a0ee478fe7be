"""Max pooling: for each element of the window in turn, all positions, images and channels at once.

Or, where that is faster on the device, on planes: see `planes.py` and `max_pool_planes.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, inf
from typing import Any, NamedTuple

from ..backend import ELEMENT_WORK, Array, Device, array_namespace, batch_first, batch_last, blocks, chain, device_of
from .checks import check_gradient, check_images, check_input
from .max_pool_planes import argmax_finder, gradient_scatterer
from .planes import Axis, make_axes, overlapping, piece_slices, uses_planes, window_reducer
from .windows import IntOrPair, Padding, Window, ceil_mode_window, offsets, pooling_window


class _Cache(NamedTuple):
    argmax: Array  # (C, OH, OW, N): index in the window of its first maximum or last NaN, kh·KW + kw
    window: Window
    size: tuple[int, int]  # (H, W)
    dtype: Any


def max_pool2d_forward(
    x: Array,
    kernel_size: IntOrPair,
    *,
    stride: IntOrPair | None = None,
    padding: Padding = 0,
    dilation: IntOrPair = 1,
    ceil_mode: bool = False,
    save_for_backward: bool = True,
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
            find_nan(channels)

    def look_again(channels: slice) -> None:
        """Repeat the search if there is NaN, or minus infinity, which on planes is the padding's value, too.

        On the host it is cheaper to look for them in the maxima than in each candidate. A GPU would wait for the look.
        """
        if N and not y[channels].min() > -inf:
            find_nan(channels)

    def find_nan(channels: slice) -> None:
        functions = _update_maximum_or_nan, _maximum_and_argmax_or_nan
        _pool_by_offsets(window, x[channels], y[channels], argmax[channels], *functions)

    device.map(pool, blocks(C, device.parts(2 * y.size * KH * KW * ELEMENT_WORK)))
    return batch_first(y), None if argmax is None else _Cache(argmax, window, (H, W), x.dtype)


def max_pool2d_backward(dy: Array, cache: Any) -> Array:
    """Return `dx (N, C, H, W)`: each gradient is added to the first maximum of its window, or to the last NaN.

    Args:
        dy: gradient w.r.t. the output, `(N, C, OH, OW)`.
        cache: what the forward call returned.
    """
    argmax, window, (H, W), dtype = cache
    dy = check_gradient("max_pool2d_backward", dy, argmax.shape, dtype)
    device = device_of(dy)
    C, _, _, N = dy.shape
    dx = device.empty((C, H, W, N), dy.dtype)
    axes = make_axes(window, H, W) if uses_planes(window, dx, device) else None

    def scatter_channels(channels: slice) -> None:
        if axes is None:
            _scatter_by_offsets(window, dy[channels], argmax[channels], dx[channels])
            return
        for shape, pieces in piece_slices(channels, dx, device):
            scatter = gradient_scatterer(axes, shape, dy.dtype, argmax.dtype, device)
            for piece in pieces:
                scatter(dy[piece], argmax[piece], dx[piece])

    KH, KW = window.kernel
    device.map(scatter_channels, blocks(C, device.parts(2 * dy.size * KH * KW * ELEMENT_WORK)))
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
    window: Window, x: Array, y: Array, argmax: Array, update: Callable[..., None], update_by_all: Callable[..., None]
) -> None:
    """Write the maxima and their indices by chains: one that updates them by one candidate, and one for all at once."""
    (OH, OW), (KH, KW) = y.shape[1:3], window.kernel
    window_offsets = offsets(window, OH, OW, *x.shape[1:3])
    candidates = [x[:, rows, cols] for _, _, (rows, cols) in window_offsets]
    if not any(window.padding) and len(candidates) <= _MAX_FUSED_OFFSETS:
        update_by_all(y, argmax, *candidates)
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


def _scatter_by_offsets(window: Window, dy: Array, argmax: Array, dx: Array) -> None:
    _, OH, OW, _ = dy.shape
    _, H, W, _ = dx.shape
    # Windows side by side write each pixel exactly once, except those beyond the last window.
    side_by_side = window.kernel == window.stride and window.dilation == (1, 1) and not any(window.padding)
    complete = side_by_side and (OH * window.kernel[0], OW * window.kernel[1]) == (H, W)
    scatter = _add_at_maximum if overlapping(window) else _write_at_maximum
    window_offsets = offsets(window, OH, OW, H, W)
    targets = [dx[:, rows, cols] for _, _, (rows, cols) in window_offsets]
    if not complete:
        dx[...] = 0
    if side_by_side and len(targets) <= _MAX_FUSED_OFFSETS:
        _write_at_maxima(dy, argmax, *targets)
        return
    for (offset, (rows, cols), _), target in zip(window_offsets, targets, strict=True):
        index = argmax[:, rows, cols]
        scatter(dy[:, rows, cols], index, target, index.dtype.type(offset))


_MAX_FUSED_OFFSETS = 9  # in one chain: a CUDA kernel's arguments, one array each, have to fit 4 KB


@chain
def _maximum(maximum: Array, *candidates: Array) -> None:
    xp = array_namespace(maximum)
    maximum[...] = candidates[0]
    for candidate in candidates[1:]:
        xp.maximum(maximum, candidate, out=maximum)


@chain
def _maximum_and_argmax(maximum: Array, argmax: Array, *candidates: Array) -> None:
    _update_by_all(_update_maximum, maximum, argmax, candidates)


@chain
def _maximum_and_argmax_or_nan(maximum: Array, argmax: Array, *candidates: Array) -> None:
    _update_by_all(_update_maximum_or_nan, maximum, argmax, candidates)


def _update_by_all(update: Callable[..., None], maximum: Array, argmax: Array, candidates: tuple[Array, ...]) -> None:
    maximum[...] = candidates[0]
    argmax[...] = argmax.dtype.type(0)
    for offset, candidate in enumerate(candidates[1:], 1):
        update(candidate, maximum, argmax, argmax.dtype.type(offset))


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
def _write_at_maxima(dy: Array, argmax: Array, *targets: Array) -> None:
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
