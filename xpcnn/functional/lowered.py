"""Convolution by tiled im2col: lower a tile to columns, multiply while it is in cache, forget it.

The three products of a convolution (Chellapilla, Puri and Simard 2006) are one function each, so that a transposed
convolution can use the same three in other roles. This is the way open to every window; `convolution.py` chooses.
"""

from __future__ import annotations

from math import ceil

from ..backend import Array, Device, blocks, device_of
from .windows import Pair, Tile, Window, add_up, col2im, im2col, share_count, tiles


def correlate(x: Array, weight: Array, bias: Array | None, window: Window, groups: int) -> Array:
    """Return `y (O, OH, OW, N)`, the correlation of `x (C, H, W, N)` with `weight (O, C / groups, KH, KW)`.

    The bias has the shape `(O,)` or `(O, OH, OW)`.
    """
    device = device_of(x)
    C, H, W, N = x.shape
    O = weight.shape[0]
    OH, OW = window.output_size(H, W)
    y = device.empty((groups, O // groups, OH, OW, N), x.dtype)
    flat = y.reshape(groups, O // groups, -1)
    x = x.reshape(groups, C // groups, H, W, N)
    rows = weight.reshape(groups, O // groups, -1)
    shared_bias = bias is None or bias.ndim == 1
    bias = None if bias is None else bias.reshape(groups, O // groups, *(bias.shape[1:] or (1, 1)), 1)
    shares = share_count(rows.shape[2], O // groups, OH * OW * N, device)
    cut = tiles(OH, OW, N, rows.shape[2] * x.itemsize, device.tile_bytes, shares)

    def multiply(task: tuple[int, slice]) -> None:
        g, part = task
        for tile in cut[part]:
            multiply_tile(g, tile)

    def multiply_tile(g: int, tile: Tile) -> None:
        columns = im2col(x[g], window, tile, device)
        span = tile.span(OW, N)
        if span is not None:
            product = flat[g][:, span]
        else:
            product = device.scratch((O // groups, columns.shape[1]), x.dtype, "product")
        _multiply(rows[g], columns, product, device)  # (O, K) @ (K, P)
        if bias is not None:
            product = product.reshape(-1, *tile.shape)
            product += bias[g] if shared_bias else bias[g][:, tile.rows, tile.cols]
        if span is None:
            y[g][:, tile.rows, tile.cols, tile.images] = product.reshape(-1, *tile.shape)

    device.map(multiply, [(g, part) for g in range(groups) for part in blocks(len(cut), shares)])
    return y.reshape(O, OH, OW, N)


def weight_gradient(x: Array, dy: Array, window: Window, groups: int) -> Array:
    """Return the gradient of `correlate` by its weight, from `x (C, H, W, N)` and `dy (O, OH, OW, N)`."""
    device = device_of(x)
    O, OH, OW, N = dy.shape
    C = x.shape[0] // groups
    K = C * window.kernel[0] * window.kernel[1]
    x = x.reshape(groups, C, *x.shape[1:])
    dy = dy.reshape(groups, O // groups, OH, OW, N)
    shares = share_count(K, O // groups, OH * OW * N, device)
    cut = tiles(OH, OW, N, K * x.itemsize, device.tile_bytes, shares)

    def accumulate(task: tuple[int, slice]) -> Array:
        g, part = task
        total = device.empty((O // groups, K), x.dtype)
        for i, tile in enumerate(cut[part]):
            columns = im2col(x[g], window, tile, device)
            dy_tile = dy[g][:, tile.rows, tile.cols, tile.images].reshape(O // groups, -1)
            product = total if i == 0 else device.scratch(total.shape, x.dtype, "product")
            device.xp.matmul(dy_tile, columns.T, out=product)  # (O, P) @ (P, K)
            if i:
                total += product
        return total

    parts = blocks(len(cut), shares)
    sums = device.map(accumulate, [(g, part) for g in range(groups) for part in parts])
    by_group = [add_up(sums[g * len(parts) : (g + 1) * len(parts)]) for g in range(groups)]
    dweight = by_group[0] if groups == 1 else device.xp.concatenate(by_group)
    return dweight.reshape(O, C, *window.kernel)


def spread(dy: Array, weight: Array, window: Window, groups: int, size: Pair, bias: Array | None = None) -> Array:
    """Return `dx (C, H, W, N)`, the gradient of `correlate` by its input of `size (H, W)`.

    A transposed convolution starts from its `bias (C,)` where a gradient starts from 0.
    """
    device = device_of(dy)
    O, OH, OW, N = dy.shape
    C, (KH, KW) = weight.shape[1], window.kernel
    dx = device.empty((groups, C, *size, N), dy.dtype)
    dy = dy.reshape(groups, O // groups, OH, OW, N)
    weight = weight.reshape(groups, O // groups, C, KH * KW)
    start = None if bias is None else bias.reshape(groups, C, 1, 1, 1)
    # Products of fewer than about 64 rows are slow, so a layer with few channels is cut into fewer shares.
    shares = min(share_count(C * KH * KW, O // groups, OH * OW * N, device), max(1, C * KH * KW // 64))
    channel_blocks = blocks(C, shares)
    cut = tiles(OH, OW, N, ceil(C / len(channel_blocks)) * KH * KW * dy.itemsize, device.tile_bytes, 1)

    def scatter(task: tuple[int, slice]) -> None:
        # Shares are cut by channel: two of them never add to the same pixel.
        g, channels = task
        target = dx[g, channels]
        target[...] = 0 if start is None else start[g, channels]
        rows = weight[g, :, channels].reshape(O // groups, -1)
        for tile in cut:
            dy_tile = dy[g][:, tile.rows, tile.cols, tile.images].reshape(O // groups, -1)
            columns = device.scratch((rows.shape[1], dy_tile.shape[1]), dy.dtype, "columns")
            _multiply(rows.T, dy_tile, columns, device)  # (K, O) @ (O, P)
            col2im(columns, window, tile, target)

    device.map(scatter, [(g, channels) for g in range(groups) for channels in channel_blocks])
    return dx.reshape(groups * C, *size, N)


def _multiply(a: Array, b: Array, out: Array, device: Device) -> None:
    """Write `a @ b` to `out`, where the device prefers that in blocks of columns that make small products."""
    columns = device.small_product // a.size
    parts = blocks(b.shape[1], ceil(b.shape[1] / columns)) if columns >= 32 else [slice(None)]
    for part in parts:
        device.xp.matmul(a, b[:, part], out=out[:, part])
