"""Max pooling: for each element of the window in turn, all positions, images and channels at once.

Where the device prefers it, along one axis after the other on the planes of `planes.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, inf
from typing import Any, NamedTuple

from ..backend import ELEMENT_WORK, Array, Device, array_namespace, batch_first, batch_last, blocks, chain, device_of
from .checks import check_gradient, check_images, check_input
from .planes import Axis, channel_pieces, make_axes, reduce_windows, start_of
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
    argmax = device.empty(y.shape, "uint8" if KH * KW <= 256 else "int32") if save_for_backward else None
    axes = make_axes(window, H, W)

    def pool(channels: slice) -> None:
        if not device.pools_on_planes or (save_for_backward and KH * KW > 256):
            _pool_by_offsets(window, x[channels], y[channels], argmax if argmax is None else argmax[channels], device)
            return
        for piece in channel_pieces(channels, x, device):
            if argmax is None:
                reduce_windows(device.xp.maximum, axes, x[piece], -inf, y[piece], device)
                continue
            _pool_on_planes(axes, x[piece], y[piece], argmax[piece], device)
            # NaN, and padding beside nothing but minus infinity. On the host it is cheap to look for them.
            if N and not y[piece].min() > -inf:
                _pool_by_offsets(window, x[piece], y[piece], argmax[piece], device)

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
    axes = make_axes(window, H, W)

    def scatter(channels: slice) -> None:
        if not device.pools_on_planes:
            _scatter_by_offsets(window, dy[channels], argmax[channels], dx[channels])
            return
        for piece in channel_pieces(channels, dx, device):
            _scatter_on_planes(axes, dy[piece], argmax[piece], dx[piece], device)

    device.map(scatter, blocks(C, device.parts(2 * dy.size * window.kernel[0] * window.kernel[1] * ELEMENT_WORK)))
    return batch_first(dx)


def _pool_on_planes(axes: tuple[Axis, Axis], x: Array, y: Array, argmax: Array, device: Device) -> None:
    """Write the maxima and the index of each window's first one, where none is NaN or minus infinity.

    The columns come first: of equal maxima in two columns, the first is the one in the upper row.
    """
    rows, cols = axes
    C, H, W, N = x.shape
    planes = cols.split(x.reshape(C * H, W, N), -inf, device)
    lines = device.scratch((C, H, cols.length * N), x.dtype, "lines")
    line_codes = device.scratch(lines.shape, argmax.dtype, "line codes")
    _first_maximum(cols.runs(planes), None, 1, lines, line_codes, device)
    planes = rows.split(lines, -inf, device)
    codes = rows.runs(rows.split(line_codes, 0, device, "row codes"))
    shape = C, rows.length, cols.length, N
    whole = y.shape == shape
    maximum = y if whole else device.scratch(shape, x.dtype, "result")
    index = argmax if whole else device.scratch(shape, argmax.dtype, "codes")
    _first_maximum(rows.runs(planes), codes, len(cols.elements), maximum, index, device)
    if not whole:
        y[...] = maximum[:, : rows.positions, : cols.positions]
        argmax[...] = index[:, : rows.positions, : cols.positions]


def _first_maximum(
    runs: list[Array], codes: list[Array] | None, step: int, maximum: Array, argmax: Array, device: Device
) -> None:
    """Write the largest of several runs, and the code of the first run that has it.

    Args:
        codes: None, or what is added to the code of each run, less than `step`.
        step: between the codes of runs, which are 0, step, 2·step, …
    """
    xp = device.xp
    length = len(runs[0])
    maximum, argmax = start_of(maximum, length), start_of(argmax, length)
    before, best = runs[0], 0 if codes is None else codes[0]
    if len(runs) == 1:
        maximum[...], argmax[...] = before, best
    rises = device.scratch((length,), bool, "rises")
    code = rises.view(argmax.dtype)
    for number, run in enumerate(runs[1:], 1):
        xp.greater(run, before, out=rises)
        before = xp.maximum(before, run, out=maximum)
        # Codes ascend, so the largest one at which the maximum rose is that of its first occurrence.
        added = argmax.dtype.type(number * step)
        xp.multiply(code, added if codes is None else codes[number] + added, out=code)
        best = xp.maximum(best, code, out=argmax)


def _scatter_on_planes(axes: tuple[Axis, Axis], dy: Array, argmax: Array, dx: Array, device: Device) -> None:
    xp = device.xp
    rows, cols = axes
    C, H, W, N = dx.shape
    OH, OW = rows.positions, cols.positions
    shape = C, rows.length, cols.length * N

    def spread(values: Array, slot: str) -> Array:
        values = cols.spread(values.reshape(C * OH, OW, N), device, f"{slot} columns")
        return rows.spread(values.reshape(C, OH, -1), device, f"{slot} rows").reshape(-1)

    dy, argmax = spread(dy, "gradient"), spread(argmax, "argmax")
    chosen = device.scratch(dy.shape, bool, "chosen")
    part = device.scratch(dy.shape, dy.dtype, "part")
    plane = device.scratch(dy.shape, dy.dtype, "plane")
    lines = device.scratch((C, H, shape[2]), dy.dtype, "lines")

    def fill(row_plane: int, col_plane: int) -> Array:
        """Return the gradients of the pixels of one plane of the rows and one of the columns."""
        first = True
        for kh, (i, row) in enumerate(rows.elements):
            for kw, (j, col) in enumerate(cols.elements):
                if (i, j) != (row_plane, col_plane):
                    continue
                start = row * shape[2] + col * N
                end = dy.size - start
                xp.equal(argmax[:end], argmax.dtype.type(kh * len(cols.elements) + kw), out=chosen[:end])
                part[:end] = chosen[:end]
                if first:
                    plane[:start] = 0
                    xp.multiply(dy[:end], part[:end], out=plane[start:])
                else:
                    xp.multiply(dy[:end], part[:end], out=part[:end])
                    xp.add(plane[start:], part[:end], out=plane[start:])
                first = False
        return plane.reshape(shape)

    def line_planes() -> Iterator[Array]:
        for j in range(len(cols.pixels)):
            rows.join((fill(i, j) for i in range(len(rows.pixels))), lines, device)
            yield lines.reshape(C * H, cols.length, N)

    cols.join(line_planes(), dx.reshape(C * H, W, N), device)


def _pool_by_offsets(window: Window, x: Array, y: Array, argmax: Array | None, device: Device) -> None:
    """Write the maxima, and unless it is None the index of each window's first one or last NaN."""
    xp = device.xp
    (OH, OW), (KH, KW) = y.shape[1:3], window.kernel
    window_offsets = offsets(window, OH, OW, *x.shape[1:3])
    candidates = [x[:, rows, cols] for _, _, (rows, cols) in window_offsets]
    fused = not any(window.padding) and len(candidates) <= _MAX_FUSED_OFFSETS
    if argmax is None:
        if fused:
            _maximum(y, *candidates)
            return
        y[...] = -inf
        for (_, (rows, cols), _), candidate in zip(window_offsets, candidates, strict=True):
            xp.maximum(y[:, rows, cols], candidate, out=y[:, rows, cols])
        return
    if fused:
        _maximum_and_argmax(y, argmax, *candidates)
        return
    # Where all values are minus infinity, the maximum is the window's first pixel inside the image.
    argmax[...] = 0
    for oh, kh in _first_offsets(OH, KH, window.stride[0], window.dilation[0], window.padding[0]):
        argmax[:, oh] += kh * KW
    for ow, kw in _first_offsets(OW, KW, window.stride[1], window.dilation[1], window.padding[2]):
        argmax[:, :, ow] += kw
    y[...] = -inf
    for (offset, (rows, cols), _), candidate in zip(window_offsets, candidates, strict=True):
        _update_maximum(candidate, y[:, rows, cols], argmax[:, rows, cols], argmax.dtype.type(offset))


def _scatter_by_offsets(window: Window, dy: Array, argmax: Array, dx: Array) -> None:
    _, OH, OW, _ = dy.shape
    _, H, W, _ = dx.shape
    overlapping = any((k - 1) * d >= s for k, d, s in zip(window.kernel, window.dilation, window.stride, strict=True))
    # Windows side by side write each pixel exactly once, except those beyond the last window.
    side_by_side = window.kernel == window.stride and window.dilation == (1, 1) and not any(window.padding)
    complete = side_by_side and (OH * window.kernel[0], OW * window.kernel[1]) == (H, W)
    scatter = _add_at_maximum if overlapping else _write_at_maximum
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
    maximum[...] = candidates[0]
    argmax[...] = argmax.dtype.type(0)
    for offset, candidate in enumerate(candidates[1:], 1):
        _update_maximum(candidate, maximum, argmax, argmax.dtype.type(offset))


@chain
def _update_maximum(candidate: Array, maximum: Array, argmax: Array, offset: Any) -> None:
    """Update the maximum and its index: that of the last NaN if there is one, as in PyTorch."""
    xp = array_namespace(candidate)
    # Offsets come in ascending order, so the largest one at which the maximum rose is that of its first occurrence.
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
