"""Convolution with 1×1 windows: one matrix product over the pixels as they lie in memory, without columns.

The pixels of all images are the P = OH·OW·N columns of `x (C, P)`; with a stride the others are left out first. On the
CPU they are computed as many products small enough for BLAS's small-matrix kernels (`Device.small_product`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import ceil, prod

import numpy as np

from ..backend import Array, Device, Shape, blocks
from .windows import Limits, Pair, Window, add_up, finish, product_work, sums_and_cuts

_LEAST_COLUMNS = 64  # products of fewer columns are slow in BLAS
_MOST_COLUMNS = 128  # of a small product: more of them leave the first-level cache
_LEAST_ROWS = 16  # of a small product, as long as the filters have so many


def applies(window: Window, groups: int) -> bool:
    """Return whether a convolution is one product."""
    return window.kernel == (1, 1) and window.padding == (0, 0, 0, 0) and groups == 1


def correlate(
    x: Array, weight: Array, bias: Array | None, window: Window, device: Device, limits: Limits | None = None
) -> Array:
    """Return the correlation of `x (C, H, W, N)` and `weight (O, C, 1, 1)` plus bias, `(O, OH, OW, N)`.

    With `limits` it is clipped to them.
    """
    return prepare(x.shape, weight, bias, window, device, limits)(x)


def prepare(
    shape: Shape, weight: Array, bias: Array | None, window: Window, device: Device, limits: Limits | None
) -> Callable[[Array], Array]:
    """Return a function that computes `correlate` for inputs of one shape `(C, H, W, N)`."""
    bias = None if bias is None else bias[:, None]
    size = *window.output_size(*shape[1:3]), shape[3]
    multiply = _product(weight.reshape(weight.shape[:2]), size, bias, device, limits)
    return lambda x: multiply(_at_positions(x, window, device))


def input_gradient(dy: Array, weight: Array, window: Window, size: Pair, device: Device) -> Array:
    """Return `dx (C, H, W, N)`, for an input of `size (H, W)`, from `dy (O, OH, OW, N)`."""
    dx = _product(device.xp.ascontiguousarray(weight.reshape(weight.shape[:2]).T), dy.shape[1:], None, device)(dy)
    if window.stride == (1, 1):
        return dx
    spread = device.empty((len(dx), *size, dy.shape[3]), dx.dtype)
    spread[...] = 0
    spread[:, :: window.stride[0], :: window.stride[1]] = dx
    return spread


def weight_gradient(x: Array, dy: Array, window: Window, device: Device) -> Array:
    """Return the gradient w.r.t. the weight, `(O, C, 1, 1)`, from `x (C, H, W, N)` and `dy (O, OH, OW, N)`."""
    x, dy = (array.reshape(len(array), -1) for array in (_at_positions(x, window, device), dy))
    (C, P), O, dtype = x.shape, len(dy), np.promote_types(x.dtype, dy.dtype)
    count, cuts = sums_and_cuts(device.parts(product_work(C, O, P)), P // _LEAST_COLUMNS, O * C * dtype.itemsize)
    many, few = (x, dy) if O < C else (dy, x)  # BLAS is faster where the result has more rows than columns
    sums = [device.empty((len(many), len(few)), dtype) for _ in range(count)]
    parts = blocks(P, count)

    def multiply(task: tuple[int, slice]) -> None:
        p, rows = task
        # (O, P) @ (P, C), or (C, P) @ (P, O)
        device.matmul(many[rows, parts[p]], few[:, parts[p]].T, out=sums[p][rows])

    row_blocks = blocks(len(many), max(1, min(cuts, len(many) // _LEAST_COLUMNS)))
    device.map(multiply, [(p, rows) for p in range(count) for rows in row_blocks])
    total = add_up(sums, device)
    return device.xp.ascontiguousarray(total.T if O < C else total)[:, :, None, None]


def _at_positions(x: Array, window: Window, device: Device) -> Array:
    """Return the pixels of `x (C, H, W, N)` at the window's positions, contiguous."""
    return device.xp.ascontiguousarray(x[:, :: window.stride[0], :: window.stride[1]])


def _product(
    weight: Array, size: Shape, bias: Array | None, device: Device, limits: Limits | None = None
) -> Callable[[Array], Array]:
    """Return a function: `weight (O, C)` times `x (C, *size)` plus `bias (O, 1)`, clipped to limits, `(O, *size)`."""
    (O, C), P = weight.shape, prod(size)
    parts = device.parts(product_work(C, O, P), at_most=P // _LEAST_COLUMNS)
    rows, unit = _small_product(O, C, P, device.small_product)
    # Tiles of whole small products, whose results are in cache when the bias is added.
    units = ceil(P / unit)
    tiles = blocks(units, max(parts, ceil((C + O) * P * weight.itemsize / device.tile_bytes)))
    parts_of_tiles, filters = blocks(len(tiles), parts), weight.reshape(-1, 1, rows, C)

    def multiply(x: Array) -> Array:
        y = device.empty((O, *size), weight.dtype)
        columns, result = x.reshape(C, P), y.reshape(O, P)

        def multiply_part(part: slice) -> None:
            for tile in tiles[part]:
                start, stop = tile.start * unit, min(tile.stop * unit, P)
                rest = start if unit == 1 else stop - (stop - start) % unit
                for first, last, width in ((start, rest, unit), (rest, stop, stop - rest)):
                    if first < last:
                        few = columns[:, first:last].reshape(1, C, -1, width).swapaxes(1, 2)
                        products = result[:, first:last].reshape(len(filters), rows, -1, width).swapaxes(1, 2)
                        device.matmul(filters, few, out=products)  # each (rows, C) @ (C, width)
                finish(result[:, start:stop], bias, limits, device)

        device.map(multiply_part, parts_of_tiles)
        return y

    return multiply


@lru_cache(maxsize=1024)
def _small_product(O: int, C: int, P: int, most: int) -> Pair:
    """Return how many rows and columns of the result to compute as one small product; all rows and 1 if none is small.

    Args:
        most: the largest product of rows, columns and C.
    """
    unit = min(_MOST_COLUMNS, P, most // (O * C) & -8)
    if unit >= min(64, P) > 0:  # with all rows the columns are read only once
        return O, unit
    unit = min(_MOST_COLUMNS, P)
    while unit >= min(32, P) > 0:
        rows = next(rows for rows in range(O, 0, -1) if O % rows == 0 and (rows * unit * C <= most or rows == 1))
        if rows >= min(O, _LEAST_ROWS):
            return rows, unit
        unit = unit // 2 & -8
    return O, 1
