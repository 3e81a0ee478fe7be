"""Two-dimensional convolution by tiled im2col: lower a tile to columns, multiply while it is in cache, forget it.

Where a device does better by Winograd's way (see `winograd.py`), it is taken instead.

The three products of a convolution (Chellapilla, Puri and Simard 2006) are one function each, so that a transposed
convolution can use the same three in other roles.
"""

from __future__ import annotations

from math import ceil
from typing import Any, NamedTuple

from ..backend import Array, Device, Shape, batch_first, batch_last, blocks, device_of
from . import winograd
from .windows import IntOrPair, Padding, Pair, Tile, Window, col2im, im2col, tiles, window


class _Cache(NamedTuple):
    x: Array  # (C, H, W, N)
    weight: Array
    bias_shape: Shape | None
    window: Window
    groups: int


def conv2d_forward(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    stride: IntOrPair = 1,
    padding: Padding = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
) -> tuple[Array, Any]:
    """Correlate a batch of images with filters: the "convolution" of neural networks.

    Args:
        x: `(N, C, H, W)`.
        weight: `(O, C / groups, KH, KW)`, of the same dtype as `x`.
        bias: `(O,)`, or `(O, OH, OW)` for one number per output position, or None.
        stride, padding, dilation: see `windows.window`.
        groups: into how many equal parts the channels are split; part i of the output sees part i of the input only.

    Returns:
        `y (N, O, OH, OW)` and what `conv2d_backward` needs.

    Raises:
        ValueError: if shapes, dtypes or options do not fit together.
    """
    shape = window(weight.shape[2:], stride, padding, dilation)
    _check(x, weight, bias, shape, groups)
    x = batch_last(x)
    size = (*shape.output_size(*x.shape[1:3]), x.shape[3])
    if winograd.applies(shape, weight, groups, size, device_of(x)) and (bias is None or bias.ndim == 1):
        y = winograd.correlate(x, weight, bias, shape)
    else:
        y = correlate(x, weight, bias, shape, groups)
    return batch_first(y), _Cache(x, weight, None if bias is None else bias.shape, shape, groups)


def conv2d_backward(dy: Array, cache: Any, *, input_gradient: bool = True) -> tuple[Array | None, Array, Array | None]:
    """Return the gradients of the input, weight and bias of `conv2d_forward`.

    Args:
        dy: gradient of the loss by the output, `(N, O, OH, OW)`.
        cache: what the forward call returned.
        input_gradient: False to skip the gradient of the input, as a network's first layer needs none.

    Returns:
        `dx (N, C, H, W)` or None, `dweight` in the shape of the weight, `dbias` in that of the bias or None.
    """
    x, weight, bias_shape, shape, groups = cache
    dy = batch_last(dy)
    dbias = None if bias_shape is None else dy.reshape(*bias_shape, -1).sum(axis=-1)
    if winograd.applies(shape, weight, groups, dy.shape[1:], device_of(dy)):
        dweight = winograd.weight_gradient(x, dy, shape)
        dx = winograd.input_gradient(dy, weight, shape) if input_gradient else None
    else:
        dweight = weight_gradient(x, dy, shape, groups)
        dx = spread(dy, weight, shape, groups, x.shape[1:3]) if input_gradient else None
    return None if dx is None else batch_first(dx), dweight, dbias


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
    shares = _shares(device, rows.shape[2], O // groups, OH * OW * N)
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
        device.xp.matmul(rows[g], columns, out=product)  # (O, K) @ (K, P)
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
    shares = _shares(device, K, O // groups, OH * OW * N)
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

    # The shares are cut and summed in an order that follows from shapes alone: the same bits on any number of threads.
    parts = blocks(len(cut), shares)
    sums = device.map(accumulate, [(g, part) for g in range(groups) for part in parts])
    for g in range(groups):
        for share in sums[g * len(parts) + 1 : (g + 1) * len(parts)]:
            sums[g * len(parts)] += share
    dweight = sums[0] if groups == 1 else device.xp.concatenate(sums[:: len(parts)])
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
    shares = min(_shares(device, C * KH * KW, O // groups, OH * OW * N), max(1, C * KH * KW // 64))
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
            device.xp.matmul(rows.T, dy_tile, out=columns)  # (K, O) @ (O, P)
            col2im(columns, window, tile, target)

    device.map(scatter, [(g, channels) for g in range(groups) for channels in channel_blocks])
    return dx.reshape(groups * C, *size, N)


def _shares(device: Device, K: int, O: int, P: int) -> int:
    """Return into how many shares a product `(O, K) @ (K, P)` and its lowering are cut."""
    # A small one stays in one piece: to wake another thread would cost more than it saves.
    return 1 if K * (O + 16) * P < 1 << 25 else device.task_count


def _check(x: Array, weight: Array, bias: Array | None, window: Window, groups: int) -> None:
    device_of(x)  # refuses what is no array
    if x.ndim != 4 or weight.ndim != 4:
        raise ValueError(f"expected input (N, C, H, W) and weight (O, C/groups, KH, KW), got {x.shape}, {weight.shape}")
    O, C = weight.shape[0], weight.shape[1] * groups
    if groups < 1 or O % groups:
        raise ValueError(f"groups={groups} does not divide {O} output channels")
    if x.shape[1] != C or not len(x):
        expected = f"expected input (N, {C}, H, W) with N of at least 1"
        raise ValueError(f"{expected} for weight {weight.shape} and groups={groups}, got {x.shape}")
    if bias is not None and bias.shape not in ((O,), (O, *window.output_size(*x.shape[2:]))):
        OH, OW = window.output_size(*x.shape[2:])
        raise ValueError(f"expected bias ({O},) or ({O}, {OH}, {OW}), got {bias.shape}")
    if x.dtype != weight.dtype:
        raise ValueError(f"expected input of the weight's dtype {weight.dtype}, got {x.dtype}")
