"""Convolution in groups of few channels, such as depthwise: all groups in one batch of products.

The products of one group are small; for a depthwise convolution the filter is one row. So the groups are computed by
one call of `matmul`, and as few numbers as possible are copied for it: each row of the image KW times, shifted by one
column of the window each time. In the layout (rows, KW, C, OW, N) the matrix of a row of positions is that of the KH
rows under it, (KH·KW·C, OW·N); the matrices of successive rows are overlapping views. (MEC copies along the height
instead: its products have N columns, too few for one row.)
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil, gcd
from typing import TypeAlias

from ..backend import Array, Device, blocks
from .windows import Limits, Pair, Window, finish, product_work, reach

_Index: TypeAlias = tuple[slice | int, ...]
_MOST_CHANNELS = 32  # of a group's input and output; with more of them Winograd and im2col are faster


def applies(weight: Array, groups: int) -> bool:
    """Return whether this is the faster way to compute a convolution.

    Args:
        weight: `(O, C / groups, KH, KW)`.
    """
    return groups > 1 and max(weight.shape[1], len(weight) // groups) <= _MOST_CHANNELS


def correlate(
    x: Array,
    weight: Array,
    bias: Array | None,
    window: Window,
    groups: int,
    device: Device,
    limits: Limits | None = None,
) -> Array:
    """Return the correlation of `x (C, H, W, N)` and `weight (O, C / groups, KH, KW)` plus bias, `(O, OH, OW, N)`.

    With `limits` it is clipped to them.
    """
    C, H, W, N = x.shape
    O = weight.shape[0]
    y = device.empty((groups, O // groups, *window.output_size(H, W), N), x.dtype)
    bias = None if bias is None else bias.reshape(groups, -1, 1, 1, 1)
    weight = weight.reshape(groups, O // groups, C // groups, *window.kernel)
    _correlate(x.reshape(groups, -1, H, W, N), weight, bias, window, y, device, limits)
    return y.reshape(O, *y.shape[2:])


def input_gradient(
    dy: Array, weight: Array, window: Window, groups: int, size: Pair, device: Device, bias: Array | None = None
) -> Array:
    """Return `dx (C, H, W, N)`, the gradient w.r.t. the input of `correlate`, from `dy (O, OH, OW, N)`.

    The pixels of every stride-th row and column are covered by the same elements of the window, so their gradient is
    a correlation of `dy` with these elements.

    Args:
        size: of the input, `(H, W)`.
        bias: `(C,)`, added to the result: the bias of a transposed convolution, whose forward pass this is.
    """
    C, (sh, sw) = weight.shape[1] * groups, window.stride
    dx = device.empty((groups, C // groups, *size, dy.shape[3]), dy.dtype)
    bias = None if bias is None else bias.reshape(groups, -1, 1, 1, 1)
    weight = weight.reshape(groups, -1, C // groups, *window.kernel).swapaxes(1, 2)
    dy = dy.reshape(groups, -1, *dy.shape[1:])
    for h in range(min(sh, size[0])):
        rows, row_dilation, above = _covering(h + window.padding[0], window.kernel[0], sh, window.dilation[0])
        for w in range(min(sw, size[1])):
            cols, col_dilation, before = _covering(w + window.padding[2], window.kernel[1], sw, window.dilation[1])
            pixels, elements = dx[:, :, h::sh, w::sw], weight[..., rows, cols]
            if elements.size:
                covering = Window(elements.shape[3:], (1, 1), (row_dilation, col_dilation), (above, 0, before, 0))
                _correlate(dy, elements, bias, covering, pixels, device)
            else:
                pixels[...] = 0 if bias is None else bias
    return dx.reshape(C, *size, -1)


def weight_gradient(x: Array, dy: Array, window: Window, groups: int, device: Device) -> Array:
    """Return the gradient w.r.t. the weight of `correlate`, from `x (C, H, W, N)` and `dy (O, OH, OW, N)`."""
    O, C = dy.shape[0] // groups, x.shape[0] // groups
    x, dy = x.reshape(groups, C, *x.shape[1:]), dy.reshape(groups, O, *dy.shape[1:])
    dweight = device.empty((groups, *window.kernel, C, O), x.dtype)
    totals = dweight.reshape(groups, -1, O)
    group_blocks, row_blocks, parts = _blocks(x, dy, window, device)

    def accumulate(part: slice) -> None:
        for g in group_blocks[part]:
            for i, rows in enumerate(row_blocks):
                lines, columns = _lines(dy[g, :, rows]), _columns(x[g], window, rows, dy.shape[3], device)
                for j, positions in enumerate(_positions(lines, columns, device)):
                    product = device.scratch((*columns.shape[:3], O), x.dtype, "product")
                    # (K, OW·N) @ (OW·N, O)
                    device.xp.matmul(columns[..., positions], lines[..., positions].swapaxes(2, 3), out=product)
                    if i or j:
                        totals[g] += product.sum(axis=1)
                    else:
                        device.xp.sum(product, axis=1, out=totals[g])

    device.map(accumulate, parts)
    return device.xp.ascontiguousarray(dweight.transpose(0, 4, 3, 1, 2)).reshape(groups * O, C, *window.kernel)


def _correlate(
    x: Array,
    weight: Array,
    bias: Array | None,
    window: Window,
    y: Array,
    device: Device,
    limits: Limits | None = None,
) -> None:
    """Write a correlation plus bias to y, which may need another padding at the bottom and right than the window's.

    Args:
        x: `(G, C, H, W, N)`, G groups of C channels.
        weight: `(G, O, C, KH, KW)`.
        bias: `(G, O, 1, 1, 1)` or None.
        y: `(G, O, OH, OW, N)`, not necessarily contiguous.
        limits: what it is clipped to, or None.
    """
    G, O, _, OW, N = y.shape
    filters = device.xp.ascontiguousarray(weight.transpose(0, 1, 3, 4, 2)).reshape(G, 1, O, -1)
    group_blocks, row_blocks, parts = _blocks(x, y, window, device)
    # NumPy has no fast product of one column with one row.
    product = device.xp.multiply if filters.shape[3] == 1 else device.xp.matmul
    in_place = y.strides[3:] == (N * y.itemsize, y.itemsize)

    def compute(part: slice) -> None:
        for g in group_blocks[part]:
            for rows in row_blocks:
                columns, target = _columns(x[g], window, rows, OW, device), y[g, :, rows]
                result = target if in_place else device.scratch(target.shape, y.dtype, "product")
                lines = _lines(result)
                for positions in _positions(lines, columns, device):
                    product(filters[g], columns[..., positions], out=lines[..., positions])  # (O, K) @ (K, OW·N)
                finish(result, None if bias is None else bias[g], limits, device)
                if not in_place:
                    device.as_runs(target)[...] = device.as_runs(result)

    device.map(compute, parts)


def _covering(first: int, kernel: int, stride: int, dilation: int) -> tuple[slice, int, int]:
    """Return the elements of the window that cover every stride-th pixel from one on, along one axis, last one first.

    Args:
        first: that pixel, counted from the start of the padding.

    Returns:
        a slice of the elements, and the dilation and the padding of the correlation of these positions with them.
    """
    common = gcd(stride, dilation)
    covering = [k for k in range(kernel) if (first - k * dilation) % stride == 0]
    if not covering:
        return slice(0, 0), 1, 0
    return (
        slice(covering[-1], None, -(stride // common)),
        dilation // common,
        (covering[-1] * dilation - first) // stride,
    )


def _lines(y: Array) -> Array:
    """Return rows of positions `(G, O, rows, OW, N)` as `(G, rows, O, OW·N)`, a view."""
    return y.reshape(*y.shape[:3], -1).swapaxes(1, 2)


def _positions(lines: Array, columns: Array, device: Device) -> list[slice]:
    """Return slices of a row's positions, of all images: blocks, if these let BLAS use its small-matrix kernels."""
    most, width = device.small_product // (lines.shape[2] * columns.shape[2]), columns.shape[3]
    return blocks(width, ceil(width / most)) if most >= 32 else [slice(None)]


def _columns(x: Array, window: Window, rows: slice, OW: int, device: Device) -> Array:
    """Return what the window covers at some rows of positions, `(G, rows, KH·KW·C, OW·N)`; padding is zero.

    It is a view of the scratch slot "columns".

    Args:
        x: `(G, C, H, W, N)`.
        rows: of the output.
    """
    G, C, H, W, N = x.shape
    KH, KW = window.kernel
    copied, padding, height, step = _copies(window, rows.start, rows.stop, OW, H, W)
    columns = device.scratch((G, height, KW, C, OW, N), x.dtype, "columns")
    if columns.nbytes <= len(padding) * device.launch_bytes:
        columns[...] = 0
    else:
        for target in padding:
            columns[target] = 0
    pixels, source = columns, x.swapaxes(1, 2)
    if window.stride[1] > 1:
        pixels, source = device.as_runs(pixels), device.as_runs(source)
    for target, covered in copied:
        pixels[target] = source[covered]
    group, row, _, _, _, number = columns.strides
    return device.xp.lib.stride_tricks.as_strided(
        columns,
        (G, rows.stop - rows.start, KH * KW * C, OW * N),
        (group, step * row, OW * N * number, number),
    )


@lru_cache(maxsize=1024)
def _copies(
    window: Window, start: int, stop: int, OW: int, H: int, W: int
) -> tuple[list[tuple[_Index, _Index]], list[_Index], int, int]:
    """Return what to copy where for some rows of positions.

    Returns:
        parts of `(G, rows, KW, C, OW, N)`, each with the part of the image `(G, H, C, W, N)` that is copied there; the
        parts that are padding; how many rows there are; and how many from the first under the window at one row of
        positions to the first at the next.
    """
    (KH, KW), (sh, sw), (dh, dw), (top, _, left, _) = window
    every = slice(None)
    if dh == 1 and sh <= KH:  # the rows under the window follow each other, and most are also under the next
        height, step = (stop - start - 1) * sh + KH, sh
        inside, image_rows = reach(slice(0, height), 1, start * sh - top, H)
        met = [(inside, image_rows)]
        outside = [slice(0, inside.start), slice(inside.stop, height)]
    else:
        height, step = (stop - start) * KH, KH
        met, outside = [], []
        for kh in range(KH):
            inside, image_rows = reach(slice(start, stop), sh, kh * dh - top, H)
            met.append((slice(inside.start * KH + kh, inside.stop * KH + kh, KH), image_rows))
            outside += [slice(kh, inside.start * KH + kh, KH), slice(inside.stop * KH + kh, height, KH)]
    copied: list[tuple[_Index, _Index]] = []
    padding: list[_Index] = [(every, part) for part in outside if part.start < part.stop]
    for kw in range(KW):
        cols, image_cols = reach(slice(0, OW), sw, kw * dw - left, W)
        beside = [part for part in (slice(0, cols.start), slice(cols.stop, OW)) if part.start < part.stop]
        for inside, image_rows in met:
            copied.append(((every, inside, kw, every, cols), (every, image_rows, every, image_cols)))
            padding += [(every, inside, kw, every, part) for part in beside]
    return copied, padding, height, step


def _blocks(x: Array, y: Array, window: Window, device: Device) -> tuple[list[slice], list[slice], list[slice]]:
    """Return blocks of groups, blocks of rows of the output, to fit a tile, and parts: slices of the former.

    Args:
        x: `(G, C, H, W, N)`.
        y: `(G, O, OH, OW, N)`.
    """
    (G, C, *_), (_, O, OH, OW, N), (KH, KW) = x.shape, y.shape, window.kernel
    parts = device.parts(G * product_work(KH * KW * C, O, OH * OW * N), at_most=G)
    # Each row of positions adds a few rows of columns, and in the weight gradient a product (K, O).
    row_bytes = max(min(KH, window.stride[0]) * OW * N, KH * O) * KW * C * x.itemsize
    rows = max(1, device.tile_bytes // row_bytes)
    group_blocks = blocks(G, max(parts, ceil(G / max(1, rows // OH))))
    return group_blocks, blocks(OH, ceil(OH / rows)), blocks(len(group_blocks), parts)
