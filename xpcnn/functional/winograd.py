"""Winograd's minimal filtering for 3×3 windows with stride 1: a quarter of the multiplications (Lavin and Gray 2016).

F(4×4, 3×3) computes a 4×4 patch of the output from a 6×6 patch of the input, with 36 multiplications per pair of
channels instead of 144:

    y = Aᵀ [ (G w Gᵀ) ∘ (Bᵀ x B) ] A

With patches as vectors, each transform is one matrix product with the Kronecker square of its matrix, and the
elementwise products summed over channels are 36 matrix products. The gradients follow by the chain rule through the
same transforms. TH and TW are the number of 4×4 output patches along each axis, and T that of all patches in a tile.
"""

from __future__ import annotations

from functools import cache
from math import ceil
from typing import Any

import numpy as np

from ..backend import Array, Device, blocks
from .im2col import Tile, im2col, tiles
from .windows import PARTIAL_SUMS, Limits, Window, add_up, finish, flipped, reach


def applies(window: Window, weight: Array, groups: int, size: tuple[int, int, int], device: Device) -> bool:
    """Return whether Winograd supports this convolution, group by group, and is the faster way on this device.

    Args:
        weight: `(O, C / groups, KH, KW)`.
        size: of the output, `(OH, OW, N)`.
    """
    return (
        window.kernel == (3, 3)
        and window.stride == window.dilation == (1, 1)
        and max(window.padding) <= 2
        and weight.dtype.itemsize > 2  # in float16 the transforms would lose most digits
        and min(weight.shape[1], len(weight) // groups) >= device.winograd_channels
        # With fewer patches the transform of the filters costs more than is saved.
        and ceil(size[0] / 4) * ceil(size[1] / 4) * size[2] >= 32
    )


def correlate(
    x: Array,
    weight: Array,
    bias: Array | None,
    window: Window,
    device: Device,
    limits: Limits | None = None,
    kept: dict[str, Array] | None = None,
) -> Array:
    """Return the correlation of `x (C, H, W, N)` and `weight (O, C, 3, 3)` plus bias, `(O, OH, OW, N)`.

    Args:
        limits: what the output is clipped to, or None.
        kept: where the transformed filters are kept between calls with the same weight, or None.
    """
    matmul = device.xp.matmul
    C, H, W, N = x.shape
    O = weight.shape[0]
    OH, OW = window.output_size(H, W)
    output_transform, _, input_transform = _transforms(device, x.dtype)
    transformed_weight = None if kept is None else kept.get("winograd")
    if transformed_weight is None:
        with device.one_blas_thread():
            transformed_weight = _transform_weight(weight, device)
        if kept is not None:
            kept["winograd"] = transformed_weight
    y = device.empty((O, OH, OW, N), x.dtype)
    patches, all_tiles, parts = _tile_patches(window, OH, OW, N, C, O, x.itemsize, device)

    def multiply(part: slice) -> None:
        for tile in all_tiles[part]:
            multiply_tile(tile)

    def multiply_tile(tile: Tile) -> None:
        points = _transformed(x, input_transform, patches, tile, device, "points")
        products = device.scratch((O, 36, points.shape[2]), x.dtype, "product")
        matmul(
            transformed_weight, points.transpose(1, 0, 2), out=products.transpose(1, 0, 2)
        )  # 36 times (O, C) @ (C, T)
        results = device.scratch((O, 16, points.shape[2]), x.dtype, "columns")
        matmul(output_transform, products, out=results)  # O times (16, 36) @ (36, T)
        finish(results, None if bias is None else bias[:, None, None], limits, device)
        _write_outputs(results, tile, y)

    device.map(multiply, parts)
    return y


def input_gradient(dy: Array, weight: Array, window: Window, device: Device) -> Array:
    """Return `dx (C, H, W, N)`: the correlation of `dy (O, OH, OW, N)` and the flipped weight."""
    flipped_weight, flipped_window = flipped(weight, window, device)
    return correlate(dy, flipped_weight, None, flipped_window, device)


def weight_gradient(x: Array, dy: Array, window: Window, device: Device) -> Array:
    """Return the gradient w.r.t. the weight of `correlate`, `(O, C, 3, 3)`."""
    matmul = device.xp.matmul
    C, N = x.shape[0], x.shape[3]
    O, OH, OW, _ = dy.shape
    output_transform, weight_transform, input_transform = _transforms(device, x.dtype)
    patches, all_tiles, parts = _tile_patches(window, OH, OW, N, C, O, x.itemsize, device)
    filter_blocks = blocks(O, max(1, O * C >> 14))  # so that the operands of a product stay in cache
    # The last patches of dy may extend beyond it: they are padded with zeros.
    dy_patches = Window((4, 4), (4, 4), (1, 1), (0, ceil(OH / 4) * 4 - OH, 0, ceil(OW / 4) * 4 - OW))

    def accumulate(part: slice) -> Array:
        total = device.empty((36, O, C), x.dtype)
        for i, tile in enumerate(all_tiles[part]):
            points = _transformed(x, input_transform, patches, tile, device, "points")
            dy_points = _transformed(dy, output_transform.T, dy_patches, tile, device, "dy points")
            for block in filter_blocks:
                rows, dy_block = total[:, block], dy_points[block].transpose(1, 0, 2)
                product = rows if i == 0 else device.scratch(rows.shape, x.dtype, "product")
                matmul(dy_block, points.transpose(1, 2, 0), out=product)  # 36 times (O, T) @ (T, C)
                if i:
                    rows += product
        return total

    total = add_up(device.map(accumulate, parts))
    with device.one_blas_thread():
        dweight = matmul(weight_transform.T, total.reshape(36, -1))  # (9, 36) @ (36, O·C)
    return device.xp.ascontiguousarray(dweight.reshape(3, 3, O, C).transpose(2, 3, 0, 1))


def _transform_weight(weight: Array, device: Device) -> Array:
    """Return `G w Gᵀ` of each filter, `(36, O, C)`."""
    O, C = weight.shape[:2]
    _, weight_transform, _ = _transforms(device, weight.dtype)
    transformed = device.empty((36, O * C), weight.dtype)
    device.xp.matmul(weight_transform, weight.reshape(O * C, 9).T, out=transformed)  # (36, 9) @ (9, O·C)
    return transformed.reshape(36, O, C)


def _transformed(x: Array, transform: Array, patches: Window, tile: Tile, device: Device, slot: str) -> Array:
    """Return the transformed patches of `x (C, H, W, N)` under a tile, `(C, 36, T)`, in a scratch slot."""
    columns = im2col(x, patches, tile, device).reshape(x.shape[0], transform.shape[1], -1)
    transformed = device.scratch((x.shape[0], 36, columns.shape[2]), x.dtype, slot)
    device.xp.matmul(transform, columns, out=transformed)  # C times (36, 36 or 16) @ (36 or 16, T)
    return transformed


def _write_outputs(results: Array, tile: Tile, y: Array) -> None:
    """Write the 4×4 output patches of a tile, `(O, 16, T)`, to their pixels of `y (O, OH, OW, N)`."""
    O, OH, OW, _ = y.shape
    results = results.reshape(O, 4, 4, *tile.shape)
    across = [reach(tile.cols, 4, w, OW) for w in range(4)]
    for h in range(4):
        tile_rows, rows = reach(tile.rows, 4, h, OH)
        for w, (tile_cols, cols) in enumerate(across):
            y[:, rows, cols, tile.images] = results[:, h, w, tile_rows, tile_cols]


def _tile_patches(
    window: Window, OH: int, OW: int, N: int, C: int, O: int, itemsize: int, device: Device
) -> tuple[Window, tuple[Tile, ...], list[slice]]:
    """Return the window of the 6×6 input patches, the tiles of output patches, and the parts: slices of tiles."""
    TH, TW = ceil(OH / 4), ceil(OW / 4)
    top, bottom, left, right = window.padding
    patches = Window((6, 6), (4, 4), (1, 1), (top, bottom + 4 * TH - OH, left, right + 4 * TW - OW))
    work = 36 * TH * TW * N * (C * O + 36 * (C + O))
    # Each part of a weight gradient has a partial sum of 36·O·C numbers, and should have more patches than channels.
    parts = device.parts(work, at_most=min(TH * TW * N // min(C, O), PARTIAL_SUMS // (36 * O * C * itemsize)))
    # Products of fewer than 64 columns are slow, in cache or not.
    each = max(C, O) * 36 * itemsize
    all_tiles = tiles(TH, TW, N, each, max(device.tile_bytes // 2, 64 * each), parts)
    return patches, all_tiles, blocks(len(all_tiles), parts)


@cache
def _transforms(device: Device, dtype: Any) -> tuple[Array, Array, Array]:
    """Return the Kronecker squares of Aᵀ (16, 36), G (36, 9) and Bᵀ (36, 36) on a device."""
    A, G, B = (device.asarray(np.kron(matrix, matrix), dtype) for matrix in _matrices())
    return A, G, B


@cache
def _matrices() -> tuple[Any, Any, Any]:
    """Return Aᵀ (4, 6), G (6, 3) and Bᵀ (6, 6) of F(4, 3), in float64.

    By the transposed Toom-Cook algorithm for five points and infinity. These points have smaller rounding errors than
    the usual 0, ±1 and ±2 (Barabasz, Anderson, Soodhalter and Gregg 2020).
    """
    points = np.array([0, 1, -1, 0.5, -2])
    A, G, B = np.zeros((4, 6)), np.zeros((6, 3)), np.zeros((6, 6))
    for k, point in enumerate(points):
        others = np.delete(points, k)
        A[:, k] = point ** np.arange(4)
        G[k] = point ** np.arange(3) / np.prod(point - others)
        B[k, :5] = np.poly(others)[::-1]
    A[3, 5] = G[5, 2] = 1
    B[5] = np.poly(points)[::-1]
    return A, G, B
