"""Convolution by im2col (Chellapilla, Puri and Simard 2006), in tiles that stay in cache; it serves every window.

im2col copies the pixels under each position of the window to a column of a matrix, so that a convolution is one matrix
product. Untiled, for stride 1 and no padding:

    def conv2d(x, weight):
        N, C, H, W = x.shape
        O, C, KH, KW = weight.shape
        OH, OW = H - KH + 1, W - KW + 1
        patches = np.lib.stride_tricks.sliding_window_view(x, (KH, KW), axis=(2, 3))  # (N, C, OH, OW, KH, KW)
        columns = patches.transpose(1, 4, 5, 2, 3, 0).reshape(C * KH * KW, OH * OW * N)
        y = weight.reshape(O, C * KH * KW) @ columns  # (O, K) @ (K, P)
        return y.reshape(O, OH, OW, N).transpose(3, 0, 1, 2)

The columns take KH·KW times the memory of the images. Here only those of one tile, some of the output's positions, are
made at a time, and multiplied while they are in cache. `correlate`, `weight_gradient` and `input_gradient` are the
three products of a convolution; a transposed convolution uses the same three in other roles.
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil
from typing import NamedTuple

import numpy as np

from ..backend import Array, Device, blocks
from .windows import Limits, Pair, Window, add_up, finish, product_work, reach, sums_and_cuts

_LEAST_COLUMNS = 64  # products of fewer columns are slow in BLAS
_LEAST_ROWS = 128  # and so are those of fewer rows, if they are not small


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
    OH, OW = window.output_size(H, W)
    y = device.empty((groups, O // groups, OH, OW, N), weight.dtype)
    flat = y.reshape(groups, O // groups, -1)
    x = x.reshape(groups, C // groups, H, W, N)
    rows = weight.reshape(groups, O // groups, -1)
    bias = None if bias is None else bias.reshape(groups, O // groups, 1)
    P, work = OH * OW * N, product_work(rows.shape[2], O // groups, OH * OW * N)
    parts = device.parts(work, at_most=P // _LEAST_COLUMNS)
    # One small image has too few columns for several parts: they share the filters.
    filter_parts = device.parts(work, at_most=O // groups // _LEAST_ROWS) if parts == 1 else 1
    filter_blocks = blocks(O // groups, filter_parts)
    all_tiles = tiles(OH, OW, N, rows.shape[2] * x.itemsize, device.tile_bytes, parts)

    def multiply(task: tuple[int, slice]) -> None:
        g, part = task
        for tile in all_tiles[part]:
            multiply_tile(g, tile)

    def multiply_tile(g: int, tile: Tile) -> None:
        columns = im2col(x[g], window, tile, device)
        span = tile.span(OW, N)
        if span is not None:
            product = flat[g][:, span]
        else:
            product = device.scratch((O // groups, columns.shape[1]), weight.dtype, "product")

        def multiply_filters(block: slice) -> None:
            _multiply(rows[g, block], columns, product[block], device)  # (O, K) @ (K, P)
            finish(product[block], None if bias is None else bias[g, block], limits, device)

        device.map(multiply_filters, filter_blocks)
        if span is None:
            y[g][:, tile.rows, tile.cols, tile.images] = product.reshape(-1, *tile.shape)

    device.map(multiply, [(g, part) for g in range(groups) for part in blocks(len(all_tiles), parts)])
    return y.reshape(O, OH, OW, N)


def weight_gradient(x: Array, dy: Array, window: Window, groups: int, device: Device) -> Array:
    """Return the gradient w.r.t. the weight of `correlate`, from `x (C, H, W, N)` and `dy (O, OH, OW, N)`."""
    O, OH, OW, N = dy.shape
    C = x.shape[0] // groups
    K = C * window.kernel[0] * window.kernel[1]
    x = x.reshape(groups, C, *x.shape[1:])
    dy = dy.reshape(groups, O // groups, OH, OW, N)
    P, dtype = OH * OW * N, np.promote_types(x.dtype, dy.dtype)
    part_count, cuts = sums_and_cuts(
        device.parts(product_work(K, O // groups, P)), P // _LEAST_COLUMNS, O // groups * K * dtype.itemsize
    )
    # Cut by channels of x, so that no column is made twice. The products keep enough rows to be fast.
    channel_blocks = blocks(C, max(1, min(cuts, K // 64)))
    all_tiles = tiles(OH, OW, N, ceil(K / len(channel_blocks)) * x.itemsize, device.tile_bytes, part_count)
    parts = blocks(len(all_tiles), part_count)
    sums = [device.empty((O // groups, C, K // C), dtype) for _ in range(groups * len(parts))]

    def accumulate(task: tuple[int, int, slice]) -> None:
        g, p, channels = task
        total = sums[g * len(parts) + p][:, channels].reshape(O // groups, -1)  # a view
        for i, tile in enumerate(all_tiles[parts[p]]):
            columns = im2col(x[g, channels], window, tile, device)
            dy_tile = dy[g][:, tile.rows, tile.cols, tile.images].reshape(O // groups, -1)
            product = total if i == 0 else device.scratch(total.shape, dtype, "product")
            device.matmul(dy_tile, columns.T, out=product)  # (O, P) @ (P, K)
            if i:
                total += product

    device.map(
        accumulate,
        [(g, p, channels) for g in range(groups) for p in range(len(parts)) for channels in channel_blocks],
    )
    dweights = [add_up(sums[g * len(parts) : (g + 1) * len(parts)], device) for g in range(groups)]
    dweight = dweights[0] if groups == 1 else device.xp.concatenate(dweights)
    return dweight.reshape(O, C, *window.kernel)


def input_gradient(
    dy: Array, weight: Array, window: Window, groups: int, size: Pair, device: Device, bias: Array | None = None
) -> Array:
    """Return `dx (C, H, W, N)`, the gradient w.r.t. the input of `correlate`, from `dy (O, OH, OW, N)`.

    Args:
        size: of the input, `(H, W)`.
        bias: `(C,)`, added to the result: the bias of a transposed convolution, whose forward pass this is.
    """
    O, OH, OW, N = dy.shape
    C, (KH, KW) = weight.shape[1], window.kernel
    dx = device.empty((groups, C, *size, N), weight.dtype)
    dy = dy.reshape(groups, O // groups, OH, OW, N)
    weight = weight.reshape(groups, O // groups, C, KH * KW)
    initial = None if bias is None else bias.reshape(groups, C, 1, 1, 1)
    # Products of fewer than about 64 rows are slow, so a layer with few channels is split into fewer parts.
    work = product_work(C * KH * KW, O // groups, OH * OW * N)
    channel_blocks = blocks(C, device.parts(work, at_most=C * KH * KW // 64))
    all_tiles = tiles(OH, OW, N, ceil(C / len(channel_blocks)) * KH * KW * weight.itemsize, device.tile_bytes, 1)

    def scatter(task: tuple[int, slice]) -> None:
        # Parts hold different channels, so no two of them add to the same pixel.
        g, channels = task
        pixels = dx[g, channels]
        apart = _columns_apart(window, N, pixels, device)
        # With the columns apart: (C, H, stride, ceil(W / stride), N).
        target = device.empty((*pixels.shape[:2], apart, ceil(size[1] / apart), N), dx.dtype) if apart > 1 else pixels
        target = target.reshape(*pixels.shape[:2], apart, -1, N)
        to_zero = device.adds_windows and initial is None and apart == len(all_tiles) == 1
        if not to_zero:
            target[...] = 0 if initial is None else initial[g, channels, ..., None]
        rows = weight[g, :, channels].reshape(O // groups, -1)
        for tile in all_tiles:
            dy_tile = dy[g][:, tile.rows, tile.cols, tile.images].reshape(O // groups, -1)
            columns = device.scratch((rows.shape[1], dy_tile.shape[1]), dx.dtype, "columns")
            _multiply(rows.T, dy_tile, columns, device)  # (K, O) @ (O, P)
            col2im(columns, window, tile, target, size[1], device, to_zero=to_zero)
        for i in range(apart if apart > 1 else 0):
            part = pixels[:, :, i::apart]
            part[...] = target[:, :, i, : part.shape[2]]

    device.map(scatter, [(g, channels) for g in range(groups) for channels in channel_blocks])
    return dx.reshape(groups * C, *size, N)


class Tile(NamedTuple):
    """A range of output rows, columns and images whose column matrix is made and multiplied at once."""

    rows: slice
    cols: slice
    images: slice

    @property
    def shape(self) -> tuple[int, int, int]:
        """The number of rows, columns and images."""
        return tuple(part.stop - part.start for part in self)

    def span(self, OW: int, N: int) -> slice | None:
        """Return the tile's slice of a channel seen as one row of `OH·OW·N` values, or None if it is not contiguous."""
        rows, cols, images = self.shape
        if images < N or (cols < OW and rows > 1):
            return None
        start = (self.rows.start * OW + self.cols.start) * N
        return slice(start, start + rows * cols * images)


@lru_cache(maxsize=1024)
def tiles(OH: int, OW: int, N: int, bytes_per_position: int, tile_bytes: int, at_least: int) -> tuple[Tile, ...]:
    """Split the output positions of all images into tiles, in order.

    Tiles are whole rows of all images if these fit, since they are contiguous; else parts of a row; else some of the
    images.

    Args:
        bytes_per_position: size of one column: one position of one image.
        tile_bytes: largest size of a tile's column matrix, unless one position of 16 images is larger.
        at_least: how many tiles to make, if there are that many rows.
    """
    position_budget = max(1, tile_bytes // bytes_per_position)
    images = min(N, max(16, position_budget))
    cols = min(OW, max(1, position_budget // images))
    rows = 1 if images < N or cols < OW else max(1, position_budget // (OW * N))
    return tuple(
        Tile(row, col, image)
        for row in blocks(OH, max(at_least, ceil(OH / rows)))
        for col in blocks(OW, ceil(OW / cols))
        for image in blocks(N, ceil(N / images))
    )


def im2col(x: Array, window: Window, tile: Tile, device: Device) -> Array:
    """Copy what the window covers at each position of a tile to a column of a matrix.

    Args:
        x: `(C, H, W, N)`, contiguous.

    Returns:
        `(C·KH·KW, rows·cols·images)`, in the scratch slot "columns"; padding is zero.
    """
    xp = device.xp
    C, (KH, KW) = x.shape[0], window.kernel
    (sh, sw), (top, _, left, _) = window.stride, window.padding
    columns = device.scratch((C, KH, KW, *tile.shape), x.dtype, "columns")
    first = tile.rows.start * sh - top, tile.cols.start * sw - left, tile.images.start
    if device.copy_windows(x, first, window.stride, window.dilation, columns):
        return columns.reshape(C * KH * KW, -1)
    field = _padded_field(x, window, tile, device)
    c, h, w, n = field.strides
    # The positions of one image are copied as single numbers, and windows side by side read each pixel once: both as
    # fast with a stride.
    pays = tile.shape[2] > 1 and window.kernel[1] > window.stride[1]
    apart = _columns_apart(window, tile.shape[2], columns, device) if pays else 1
    if apart > 1:
        _copy_apart(field, window, columns, apart, device)
        return columns.reshape(C * KH * KW, -1)
    patches = xp.lib.stride_tricks.as_strided(
        field,
        columns.shape,
        (c, h * window.dilation[0], w * window.dilation[1], h * window.stride[0], w * window.stride[1], n),
    )
    columns[...] = patches
    return columns.reshape(C * KH * KW, -1)


def _columns_apart(window: Window, images: int, written: Array, device: Device) -> int:
    """Return the stride along the width if columns of pixels are to be taken apart by it first, else 1.

    With a stride, neighbouring positions are not neighbours in memory, and copies run over one pixel of all images at a
    time: slow if these are few. Taken apart, every second (or third) column lies next to the other in long runs.
    """
    few = images * written.itemsize < 64 and written.nbytes > 8 * device.launch_bytes
    return window.stride[1] if few and window.kernel[1] > 1 else 1


def _copy_apart(field: Array, window: Window, columns: Array, apart: int, device: Device) -> None:
    """Copy the windows of a padded `field (C, rows, cols, images)` to `columns (C, KH, KW, rows, cols, images)`."""
    C, KH, KW, rows, cols, images = columns.shape
    width = ceil(field.shape[2] / apart)
    parts = device.scratch((apart, C, field.shape[1], width, images), field.dtype, "apart")
    for i in range(apart):
        taken = field[:, :, i::apart]
        parts[i, :, :, : taken.shape[2]] = taken
    c, h, w, n = parts.strides[1:]
    for kw in range(KW):
        first, i = divmod(kw * window.dilation[1], apart)
        columns[:, :, kw] = device.xp.lib.stride_tricks.as_strided(
            parts[i, :, :, first:],
            (C, KH, rows, cols, images),
            (c, h * window.dilation[0], h * window.stride[0], w, n),
        )


def col2im(
    columns: Array, window: Window, tile: Tile, dx: Array, W: int, device: Device, *, to_zero: bool = False
) -> None:
    """Add the columns of one tile to the pixels that `im2col` copied them from, its adjoint; padding is dropped.

    Args:
        columns: `(C·KH·KW, rows·cols·images)`.
        dx: `(C, H, 1, W, N)`, or `(C, H, stride, ceil(W / stride), N)` with the columns taken apart; added to in place.
        W: width of the image.
        to_zero: whether `dx` is taken to be 0 before; of devices that have `adds_windows`, with columns side by side.
    """
    C, H, apart, _, _ = dx.shape
    (KH, KW), (top, _, left, _) = window.kernel, window.padding
    patches = columns.reshape(C, KH, KW, *tile.shape)
    first = tile.rows.start * window.stride[0] - top, tile.cols.start * window.stride[1] - left
    pixels = dx[:, :, 0, :, tile.images]
    if apart == 1 and device.add_windows(patches, first, window.stride, window.dilation, pixels, to_zero=to_zero):
        return
    across = [reach(tile.cols, window.stride[1], kw * window.dilation[1] - left, W) for kw in range(KW)]
    for kh in range(KH):
        tile_rows, image_rows = reach(tile.rows, window.stride[0], kh * window.dilation[0] - top, H)
        for kw, (tile_cols, image_cols) in enumerate(across):
            first, i = divmod(image_cols.start, apart)
            cols = slice(first, ceil((image_cols.stop - i) / apart), window.stride[1] // apart)
            dx[:, image_rows, i, cols, tile.images] += patches[:, kh, kw, tile_rows, tile_cols]


def _multiply(a: Array, b: Array, out: Array, device: Device) -> None:
    """Write `a @ b` to `out`, in blocks of columns if that lets BLAS use its small-matrix kernels."""
    columns = device.small_product // a.size
    parts = blocks(b.shape[1], ceil(b.shape[1] / columns)) if columns >= 32 else [slice(None)]
    for part in parts:
        device.matmul(a, b[:, part], out=out[:, part])


def _padded_field(x: Array, window: Window, tile: Tile, device: Device) -> Array:
    """Return the part of the padded image that a tile's windows cover; a view of `x` if it holds no padding."""
    C, H, W, _ = x.shape
    (KH, KW), (top, _, left, _) = window.kernel, window.padding
    h0, h1 = _covered(tile.rows, window.stride[0], (KH - 1) * window.dilation[0], top)
    w0, w1 = _covered(tile.cols, window.stride[1], (KW - 1) * window.dilation[1], left)
    if h0 >= 0 and w0 >= 0 and h1 <= H and w1 <= W:
        return x[:, h0:h1, w0:w1, tile.images]
    # Borrows the "product" scratch slot, unused until the product.
    field = device.scratch((C, h1 - h0, w1 - w0, tile.shape[2]), x.dtype, "product")
    # If the tile lies entirely in the padding, nothing is inside and all of it is cleared.
    image_h, image_w = slice(min(max(0, h0), H), max(0, min(H, h1))), slice(min(max(0, w0), W), max(0, min(W, w1)))
    inside_h, inside_w = slice(image_h.start - h0, image_h.stop - h0), slice(image_w.start - w0, image_w.stop - w0)
    if field.nbytes <= 3 * device.launch_bytes:
        field[...] = 0
    else:
        field[:, : inside_h.start] = 0
        field[:, inside_h.stop :] = 0
        field[:, inside_h, : inside_w.start] = 0
        field[:, inside_h, inside_w.stop :] = 0
    field[:, inside_h, inside_w] = x[:, image_h, image_w, tile.images]
    return field


def _covered(positions: slice, stride: int, span: int, padding: int) -> Pair:
    """Return the first pixel under the windows along one axis, and the one after the last; padding has others."""
    return positions.start * stride - padding, (positions.stop - 1) * stride + span + 1 - padding
