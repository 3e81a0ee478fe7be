"""Convolution with 1×1 windows: one matrix product over the pixels as they lie in memory, without columns.

The pixels of all images are the P = OH·OW·N columns of `x (C, P)`; with a stride the others are left out first. On the
CPU narrow layers are computed as many products small enough for BLAS's small-matrix kernels (`Device.small_product`).
"""

from __future__ import annotations

from math import ceil

from ..backend import Array, Device, blocks
from .windows import PARTIAL_SUMS, Limits, Pair, Window, add_up, finish, product_work

_LEAST_COLUMNS = 64  # products of fewer columns are slow in BLAS
_MOST_COLUMNS = 128  # of a small product: more of them leave the first-level cache


def applies(window: Window, groups: int) -> bool:
    """Return whether a convolution is one product."""
    return window.kernel == (1, 1) and window.padding == (0, 0, 0, 0) and groups == 1


def correlate(
    x: Array, weight: Array, bias: Array | None, window: Window, device: Device, limits: Limits | None = None
) -> Array:
    """Return the correlation of `x (C, H, W, N)` and `weight (O, C, 1, 1)` plus bias, `(O, OH, OW, N)`.

    With `limits` it is clipped to them.
    """
    x = _at_positions(x, window, device)
    bias = None if bias is None else bias[:, None]
    return _product(weight.reshape(weight.shape[:2]), x, bias, device, limits)


def input_gradient(dy: Array, weight: Array, window: Window, size: Pair, device: Device) -> Array:
    """Return `dx (C, H, W, N)`, for an input of `size (H, W)`, from `dy (O, OH, OW, N)`."""
    dx = _product(device.xp.ascontiguousarray(weight.reshape(weight.shape[:2]).T), dy, None, device)
    if window.stride == (1, 1):
        return dx
    spread = device.empty((len(dx), *size, dy.shape[3]), dy.dtype)
    spread[...] = 0
    spread[:, :: window.stride[0], :: window.stride[1]] = dx
    return spread


def weight_gradient(x: Array, dy: Array, window: Window, device: Device) -> Array:
    """Return the gradient w.r.t. the weight, `(O, C, 1, 1)`, from `x (C, H, W, N)` and `dy (O, OH, OW, N)`."""
    x, dy = (array.reshape(len(array), -1) for array in (_at_positions(x, window, device), dy))
    (C, P), O = x.shape, len(dy)
    at_most = min(P // _LEAST_COLUMNS, PARTIAL_SUMS // (O * C * x.itemsize))
    parts = device.parts(product_work(C, O, P), at_most=at_most)
    if O < C:  # BLAS is faster where the result has more rows than columns
        total = add_up(device.map(lambda part: x[:, part] @ dy[:, part].T, blocks(P, parts))).T  # (C, P) @ (P, O)
    else:
        total = add_up(device.map(lambda part: dy[:, part] @ x[:, part].T, blocks(P, parts)))  # (O, P) @ (P, C)
    return device.xp.ascontiguousarray(total)[:, :, None, None]


def _at_positions(x: Array, window: Window, device: Device) -> Array:
    """Return the pixels of `x (C, H, W, N)` at the window's positions, contiguous."""
    return device.xp.ascontiguousarray(x[:, :: window.stride[0], :: window.stride[1]])


def _product(weight: Array, x: Array, bias: Array | None, device: Device, limits: Limits | None = None) -> Array:
    """Return `weight (O, C)` times `x (C, OH, OW, N)` plus `bias (O, 1)`, clipped to limits, `(O, OH, OW, N)`."""
    O, C = weight.shape
    y = device.empty((O, *x.shape[1:]), x.dtype)
    columns, result = x.reshape(C, -1), y.reshape(O, -1)
    P = columns.shape[1]
    parts = device.parts(product_work(C, O, P), at_most=P // _LEAST_COLUMNS)
    small = min(_MOST_COLUMNS, device.small_product // weight.size) & -8
    # Tiles of whole small products, whose results are in cache when the bias is added.
    unit = small if small >= 32 else 1
    units = ceil(P / unit)
    tiles = blocks(units, max(parts, ceil((C + O) * P * x.itemsize / device.tile_bytes)))

    def multiply(part: slice) -> None:
        for tile in tiles[part]:
            start, stop = tile.start * unit, min(tile.stop * unit, P)
            rest = start if unit == 1 else stop - (stop - start) % unit
            if rest > start:
                shape = (-1, (rest - start) // unit, unit)
                few, products = (array[:, start:rest].reshape(shape).transpose(1, 0, 2) for array in (columns, result))
                device.xp.matmul(weight, few, out=products)  # each (O, C) @ (C, unit)
            if rest < stop:
                device.xp.matmul(weight, columns[:, rest:stop], out=result[:, rest:stop])  # (O, C) @ (C, P)
            finish(result[:, start:stop], bias, limits, device)

    device.map(multiply, blocks(len(tiles), parts))
    return y
