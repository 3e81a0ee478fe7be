"""Max pooling: for each element of the window in turn, all positions, images and channels at once.

Where the device prefers it, along one axis after the other on the planes of `planes.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, inf
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
from .checks import check_gradient, check_images, check_input
from .planes import Axis, make_axes, piece_slices, plane_of_zeros, start_of, window_reducer
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
        for shape, pieces in piece_slices(channels, x, device):
            if argmax is None:
                reduce = window_reducer(device.xp.maximum, axes, shape, x.dtype, -inf, device)
                for piece in pieces:
                    y[piece] = reduce(x[piece])
                continue
            find = _argmax_finder(axes, shape, x.dtype, argmax.dtype, device)
            for piece in pieces:
                find(x[piece], y[piece], argmax[piece])
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

    def scatter_channels(channels: slice) -> None:
        if not device.pools_on_planes:
            _scatter_by_offsets(window, dy[channels], argmax[channels], dx[channels])
            return
        for shape, pieces in piece_slices(channels, dx, device):
            scatter = _scatterer(axes, shape, dy.dtype, argmax.dtype, device)
            for piece in pieces:
                scatter(dy[piece], argmax[piece], dx[piece])

    work = 2 * dy.size * window.kernel[0] * window.kernel[1] * ELEMENT_WORK
    device.map(scatter_channels, blocks(C, device.parts(work)))
    return batch_first(dx)


def _argmax_finder(
    axes: tuple[Axis, Axis], shape: Shape, dtype: Any, index_dtype: Any, device: Device
) -> Callable[[Array, Array, Array], None]:
    """Return a function that writes the maxima of `x` and the index of each window's first, if none is NaN or -inf.

    The columns come first: of equal maxima in two columns, the first is the one in the upper row.

    Args:
        shape: of `x`, `(C, H, W, N)`.
    """
    rows, cols = axes
    C, H, W, N = shape
    step = len(cols.elements)
    col_planes, split_cols = cols.splitter(C * H, N, dtype, -inf, device, "columns")
    row_planes, split_rows = rows.splitter(C, cols.length * N, dtype, -inf, device, "rows")
    code_planes, split_codes = rows.splitter(C, cols.length * N, index_dtype, 0, device, "row codes")
    lines = device.scratch((C, H, cols.length * N), dtype, "lines")
    line_codes = device.scratch(lines.shape, index_dtype, "line codes")
    maxima = device.scratch((C, rows.length, cols.length, N), dtype, "result")
    codes = device.scratch(maxima.shape, index_dtype, "codes")
    find_in_cols = _first_maximum(cols.runs(col_planes), None, 1, lines, line_codes, device)
    find_in_rows = _first_maximum(rows.runs(row_planes), rows.runs(code_planes), step, maxima, codes, device)
    positions = slice(None), slice(rows.positions), slice(cols.positions)

    def find(x: Array, y: Array, argmax: Array) -> None:
        split_cols(x.reshape(C * H, W, N))
        find_in_cols()
        split_rows(lines)
        split_codes(line_codes)
        find_in_rows()
        y[...] = maxima[positions]
        argmax[...] = codes[positions]

    return find


def _first_maximum(
    runs: list[Array], codes: list[Array] | None, step: int, maximum: Array, argmax: Array, device: Device
) -> Callable[[], None]:
    """Return a function that writes the largest of several runs, and the code of the first run that has it.

    Args:
        codes: None, or what is added to the code of each run, less than `step`.
        step: between the codes of runs, which are 0, step, 2·step, …
    """
    xp = device.xp
    length = len(runs[0])
    maximum, argmax = start_of(maximum, length), start_of(argmax, length)
    rises = device.scratch((length,), bool, "rises")
    code = rises.view(argmax.dtype)
    added = [argmax.dtype.type(number * step) for number in range(len(runs))]

    def find() -> None:
        before, best = runs[0], None if codes is None else codes[0]
        if len(runs) == 1:
            maximum[...], argmax[...] = before, 0 if best is None else best
        for number, run in enumerate(runs[1:], 1):
            xp.greater(run, before, out=rises)
            before = xp.maximum(before, run, out=maximum)
            # Codes ascend, so the largest one at which the maximum rose is that of its first occurrence.
            risen_code = added[number] if codes is None else codes[number] + added[number]
            if best is None:
                best = xp.multiply(code, risen_code, out=argmax)
            else:
                best = xp.maximum(best, xp.multiply(code, risen_code, out=code), out=argmax)

    return find


def _scatterer(
    axes: tuple[Axis, Axis], shape: Shape, dtype: Any, index_dtype: Any, device: Device
) -> Callable[[Array, Array, Array], None]:
    """Return a function that writes to `dx` the sum of the gradients `dy` of the windows whose maximum a pixel is.

    Args:
        shape: of `dx`, `(C, H, W, N)`.
    """
    xp = device.xp
    rows, cols = axes
    C, H, W, N = shape
    spread_dy = plane_of_zeros(axes, C, N, dtype, device, "values")
    spread_argmax = plane_of_zeros(axes, C, N, index_dtype, device, "codes")
    positions = slice(None), slice(rows.positions), slice(cols.positions)
    gradients, index = spread_dy.reshape(-1), spread_argmax.reshape(-1)
    chosen = device.scratch(index.shape, bool, "rises")
    part = device.scratch(gradients.shape, dtype, "part")
    sums = device.scratch((C, rows.length, cols.length * N), dtype, "rows")
    lines = device.scratch((C, H, cols.length * N), dtype, "lines")
    join_rows = rows.joiner([sums] * len(rows.pixels), device)
    join_cols = cols.joiner([lines.reshape(C * H, cols.length, N)] * len(cols.pixels), device)
    total = sums.reshape(-1)
    elements: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for kh, (row_plane, row) in enumerate(rows.elements):
        for kw, (col_plane, col) in enumerate(cols.elements):
            start = (row * cols.length + col) * N
            elements.setdefault((col_plane, row_plane), []).append((kh * len(cols.elements) + kw, start))

    def sum_up(col_plane: int, row_plane: int) -> None:
        for i, (offset, start) in enumerate(elements[col_plane, row_plane]):
            end = total.size - start
            xp.equal(index[:end], index.dtype.type(offset), out=chosen[:end])
            part[:end] = chosen[:end]
            if i == 0:
                total[:start] = 0
                xp.multiply(gradients[:end], part[:end], out=total[start:])
            else:
                part[:end] *= gradients[:end]
                total[start:] += part[:end]

    def scatter(dy: Array, argmax: Array, dx: Array) -> None:
        spread_dy[positions] = dy
        spread_argmax[positions] = argmax
        for col_plane in range(len(cols.pixels)):
            for row_plane in range(len(rows.pixels)):
                sum_up(col_plane, row_plane)
                join_rows(row_plane, lines)
            join_cols(col_plane, dx.reshape(C * H, W, N))

    return scatter


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
