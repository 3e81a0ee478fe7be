"""Winograd's minimal filtering for 3×3 windows with stride 1: a quarter of the multiplications (Lavin and Gray 2016).

F(4×4, 3×3) computes a 4×4 patch of the output from a 6×6 patch of the input, with 36 multiplications per pair of
channels instead of 144. F(3×3, 3×3), with 25 instead of 81, is used where its patches fit a small output better, such
as one of 6×6 or 3×3. M is the side of an output patch, and P = (M + 2)² the number of multiplications:

    y = Aᵀ [ (G w Gᵀ) ∘ (Bᵀ x B) ] A

With patches as vectors, each transform is one matrix product with the Kronecker square of its matrix, and the
elementwise products summed over channels are P matrix products. The gradients follow by the chain rule through the
same transforms. TH and TW are the number of output patches along each axis, and T that of all patches in a tile.
"""

from __future__ import annotations

from functools import cache, partial
from math import ceil, inf, prod
from typing import Any

import numpy as np

from ..backend import ELEMENT_WORK, Array, Device, blocks
from .im2col import Tile, im2col, tiles
from .windows import Limits, Window, add_up, finish, flipped, kept_array, reach, sums_and_cuts

_LARGE_TILE = 10 << 20  # bytes: 64 patches of 512 channels or 128 of 256, of input and output
_LARGE_LAYER, _MANY_PATCHES = 24 * 64, 1024
_LEAST_PATCHES = 16  # of the output, in a part: products of fewer columns are slow in BLAS


def applies(
    window: Window, weight: Array, groups: int, size: tuple[int, int, int], device: Device, *, kept: bool = False
) -> bool:
    """Return whether Winograd supports this convolution, group by group, and is the faster way on this device.

    Args:
        weight: `(O, C / groups, KH, KW)`.
        size: of the output, `(OH, OW, N)`.
        kept: whether the transformed filters are kept between calls.
    """
    patches = ceil(size[0] / 4) * ceil(size[1] / 4) * size[2]
    return (
        window.kernel == (3, 3)
        and window.stride == window.dilation == (1, 1)
        and max(window.padding) <= 2
        and weight.dtype.itemsize > 2  # in float16 the transforms would lose most digits
        and _has_channels(weight.shape[1], len(weight) // groups, patches, device)
        and patches >= _least_patches(weight, device, kept)
    )


def _has_channels(C: int, O: int, patches: int, device: Device) -> bool:
    """Return whether a layer from C to O channels has enough of them for the transforms to cost less than is saved.

    Each patch is transformed C + O times for C·O products. So few channels on one side are made up for by many on the
    other, if there are many patches: with AVX-512, a training step of 24 to 64 channels takes 0.81 of its time.
    """
    if min(C, O) >= device.winograd_channels:
        return True
    large = C * O >= _LARGE_LAYER and patches >= _MANY_PATCHES
    return large and min(C, O) >= device.winograd_few and device.winograd_channels < inf


def _least_patches(weight: Array, device: Device, kept: bool) -> int:
    """Return with how many patches of the output Winograd is the faster way.

    With fewer, the transform of the filters costs more than is saved; or if it is kept, and too large for the cache,
    reading it.
    """
    fits = min(weight.shape[:2]) >= 64 and 4 * weight.nbytes <= 2 * device.tile_bytes
    return 16 if kept and fits else 32


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
    matmul = device.matmul
    C, H, W, N = x.shape
    O = weight.shape[0]
    OH, OW = window.output_size(H, W)
    M, P = _sizes(OH, OW)
    output_transform, _, input_transform = _transforms(device, x.dtype, M)
    transformed_weight = kept_array(kept, f"winograd {M}", lambda: _transform_weight(weight, M, device))
    y = device.empty((O, OH, OW, N), x.dtype)
    patches, TH, TW = _patches(window, OH, OW, M), ceil(OH / M), ceil(OW / M)
    parts = _parts(P, TH * TW * N, C, O, device, at_most=TH * TW * N // _LEAST_PATCHES)
    all_tiles = _tiles(TH, TW, N, P * max(C, O) * x.itemsize, parts, device)

    def compute(part: slice) -> None:
        for tile in all_tiles[part]:
            points = _transformed(x, input_transform, patches, tile, device, "points")
            products = device.scratch((O, P, points.shape[2]), x.dtype, "products")
            multiply(slice(None), points, products)
            write(slice(None), products, tile)

    def multiply(p: slice, points: Array, products: Array) -> None:
        # each (O, C) @ (C, T)
        matmul(transformed_weight[p], points[:, p].transpose(1, 0, 2), out=products[:, p].transpose(1, 0, 2))

    def write(filters: slice, products: Array, tile: Tile) -> None:
        products = products[filters]
        results = device.scratch((len(products), M * M, products.shape[2]), x.dtype, "columns")
        matmul(output_transform, products, out=results)  # O times (M², P) @ (P, T)
        finish(results, None if bias is None else bias[filters, None, None], limits, device)
        _write_outputs(results, M, tile, y[filters])

    if len(all_tiles) >= min(parts, 8):
        device.map(compute, blocks(len(all_tiles), parts))
        return y
    for tile in _large_tiles(TH, TW, N, P * (C + O) * x.itemsize):
        points = _transformed(x, input_transform, patches, tile, device, "points", shared=True)
        T = points.shape[2]
        products = device.scratch((O, P, T), x.dtype, "products")
        device.map(partial(multiply, points=points, products=products), _blocks_of_points(P, C * O * T, device))
        parts = device.parts(P * O * T * (M * M + ELEMENT_WORK))
        device.map(partial(write, products=products, tile=tile), blocks(O, parts))
    return y


def input_gradient(dy: Array, weight: Array, window: Window, device: Device) -> Array:
    """Return `dx (C, H, W, N)`: the correlation of `dy (O, OH, OW, N)` and the flipped weight."""
    flipped_weight, flipped_window = flipped(weight, window, device)
    return correlate(dy, flipped_weight, None, flipped_window, device)


def weight_gradient(x: Array, dy: Array, window: Window, device: Device) -> Array:
    """Return the gradient w.r.t. the weight of `correlate`, `(O, C, 3, 3)`."""
    matmul = device.matmul
    C, N = x.shape[0], x.shape[3]
    O, OH, OW, _ = dy.shape
    M, P = _sizes(OH, OW)
    output_transform, _, input_transform = _transforms(device, x.dtype, M)
    patches, TH, TW = _patches(window, OH, OW, M), ceil(OH / M), ceil(OW / M)
    # The last patches of dy may extend beyond it: they are padded with zeros.
    dy_patches = Window((M, M), (M, M), (1, 1), (0, TH * M - OH, 0, TW * M - OW))
    parts = _parts(P, TH * TW * N, C, O, device)
    # Each partial sum is of P·O·C numbers, and should have more patches than channels.
    most = TH * TW * N // min(C, O)
    count, _ = sums_and_cuts(parts, most, P * O * C * x.itemsize)
    filter_blocks = blocks(O, max(1, O * C >> 16))  # so that the operands of a product stay in cache

    def accumulate(part: slice) -> Array:
        total = device.empty((P, O, C), x.dtype)
        for tile in all_tiles[part]:
            points = _transformed(x, input_transform, patches, tile, device, "points")
            dy_points = _transformed(dy, output_transform.T, dy_patches, tile, device, "dy points")
            add(slice(None), points, dy_points, total, first=tile is all_tiles[part.start])
        return total

    def add(p: slice, points: Array, dy_points: Array, total: Array, first: bool) -> None:
        for block in filter_blocks:
            rows, dy_block = total[p, block], dy_points[block, p].transpose(1, 0, 2)
            product = rows if first else device.scratch(rows.shape, x.dtype, "product")
            matmul(dy_block, points[:, p].transpose(1, 2, 0), out=product)  # each (O, T) @ (T, C)
            if not first:
                rows += product

    if count >= min(parts, 4):
        all_tiles = _tiles(TH, TW, N, P * max(C, O) * x.itemsize, count, device)
        return _untransformed(add_up(device.map(accumulate, blocks(len(all_tiles), count)), device), M, device)
    total = device.empty((P, O, C), x.dtype)
    for i, tile in enumerate(_large_tiles(TH, TW, N, P * (C + O) * x.itemsize)):
        points = _transformed(x, input_transform, patches, tile, device, "points", shared=True)
        dy_points = _transformed(dy, output_transform.T, dy_patches, tile, device, "dy points", shared=True)
        task = partial(add, points=points, dy_points=dy_points, total=total, first=i == 0)
        device.map(task, _blocks_of_points(P, C * O * points.shape[2], device))
    return _untransformed(total, M, device)


def _sizes(OH: int, OW: int) -> tuple[int, int]:
    """Return M and P: 3 and 25 for an output whose patches then have fewer multiplications, else 4 and 36.

    That is one of 3×3, 5×5, 6×6 or 9×9, and takes 0.66 to 0.82 of the time. Patches of 5×5 would have fewer for 15×15,
    but three times the rounding error.
    """
    work = {M: (M + 2) ** 2 * ceil(OH / M) * ceil(OW / M) for M in (4, 3)}
    M = 3 if work[3] < 0.85 * work[4] else 4
    return M, (M + 2) ** 2


def _transform_weight(weight: Array, M: int, device: Device) -> Array:
    """Return `G w Gᵀ` of each filter, `(P, O, C)`."""
    O, C = weight.shape[:2]
    _, weight_transform, _ = _transforms(device, weight.dtype, M)
    transformed = device.empty((len(weight_transform), O * C), weight.dtype)
    columns = weight.reshape(O * C, 9).T

    def transform(part: slice) -> None:
        device.matmul(weight_transform, columns[:, part], out=transformed[:, part])  # (P, 9) @ (9, O·C)

    with device.one_blas_thread():
        device.map(transform, blocks(O * C, device.parts(45 * O * C * ELEMENT_WORK)))
    return transformed.reshape(-1, O, C)


def _untransformed(total: Array, M: int, device: Device) -> Array:
    """Return `Gᵀ total G`, `(O, C, 3, 3)`, of `total (P, O, C)`."""
    P, O, C = total.shape
    _, weight_transform, _ = _transforms(device, total.dtype, M)
    dweight = device.empty((O, C, 3, 3), total.dtype)

    def transform(filters: slice) -> None:
        points = total[:, filters].reshape(P, -1)
        product = device.scratch((9, points.shape[1]), total.dtype, "product")
        device.matmul(weight_transform.T, points, out=product)  # (9, P) @ (P, O·C)
        dweight[filters] = product.reshape(3, 3, -1, C).transpose(2, 3, 0, 1)

    with device.one_blas_thread():
        device.map(transform, blocks(O, device.parts(45 * O * C * ELEMENT_WORK)))
    return dweight


def _transformed(
    x: Array, transform: Array, patches: Window, tile: Tile, device: Device, slot: str, shared: bool = False
) -> Array:
    """Return the transformed patches of `x (C, H, W, N)` under a tile, `(C, P, T)`, in a scratch slot.

    Args:
        shared: whether to compute blocks of channels in parallel.
    """
    T, (P, pixels) = prod(tile.shape), transform.shape
    transformed = device.scratch((len(x), P, T), x.dtype, slot)

    def compute(channels: slice) -> None:
        columns = im2col(x[channels], patches, tile, device).reshape(-1, pixels, T)
        device.matmul(transform, columns, out=transformed[channels])  # C times (P, P or M²) @ (P or M², T)

    if shared:
        device.map(compute, blocks(len(x), device.parts(P * len(x) * T * (P + ELEMENT_WORK))))
    else:
        compute(slice(None))
    return transformed


def _write_outputs(results: Array, M: int, tile: Tile, y: Array) -> None:
    """Write the output patches of a tile, `(O, M², T)`, to their pixels of `y (O, OH, OW, N)`."""
    O, OH, OW, _ = y.shape
    results = results.reshape(O, M, M, *tile.shape)
    across = [reach(tile.cols, M, w, OW) for w in range(M)]
    for h in range(M):
        tile_rows, rows = reach(tile.rows, M, h, OH)
        for w, (tile_cols, cols) in enumerate(across):
            y[:, rows, cols, tile.images] = results[:, h, w, tile_rows, tile_cols]


def _patches(window: Window, OH: int, OW: int, M: int) -> Window:
    """Return the window of the input patches."""
    top, bottom, left, right = window.padding
    padding = top, bottom + M * ceil(OH / M) - OH, left, right + M * ceil(OW / M) - OW
    return Window((M + 2, M + 2), (M, M), (1, 1), padding)


def _parts(P: int, patches: int, C: int, O: int, device: Device, at_most: int | None = None) -> int:
    return device.parts(P * patches * (C * O + P * (C + O)), at_most)


def _tiles(TH: int, TW: int, N: int, each: int, at_least: int, device: Device) -> tuple[Tile, ...]:
    """Return the tiles of output patches of `each` bytes, at least as many if there are that many rows of patches."""
    # Products of fewer than 64 columns are slow, in cache or not.
    return tiles(TH, TW, N, each, max(device.tile_bytes // 2, 64 * each), at_least)


def _large_tiles(TH: int, TW: int, N: int, each: int) -> tuple[Tile, ...]:
    """Return tiles for few patches or many channels: what is computed for one tile is shared out, not the tiles.

    So there is one sum for the gradient w.r.t. the weight, whose partial sums would take more memory than these tiles.
    """
    return tiles(TH, TW, N, each, _LARGE_TILE, 1)


def _blocks_of_points(P: int, work: int, device: Device) -> list[slice]:
    """Return blocks of the P products of a tile; `work` is that of one, which is all BLAS, so that it counts twice."""
    return blocks(P, device.parts(2 * P * work))


@cache
def _transforms(device: Device, dtype: Any, M: int) -> tuple[Array, Array, Array]:
    """Return the Kronecker squares of Aᵀ (M², P), G (P, 9) and Bᵀ (P, P) on a device."""
    A, G, B = (device.asarray(np.kron(matrix, matrix), dtype) for matrix in _matrices(M))
    return A, G, B


@cache
def _matrices(M: int) -> tuple[Any, Any, Any]:
    """Return Aᵀ (M, M + 2), G (M + 2, 3) and Bᵀ (M + 2, M + 2) of F(M, 3), in float64.

    By the transposed Toom-Cook algorithm for M + 1 points and infinity. These points have smaller rounding errors than
    the usual 0, ±1 and ±2 (Barabasz, Anderson, Soodhalter and Gregg 2020).
    """
    points = np.array([0, 1, -1, 0.5, -2])[: M + 1]
    last = M + 1  # the row of infinity
    A, G, B = np.zeros((M, M + 2)), np.zeros((M + 2, 3)), np.zeros((M + 2, M + 2))
    for k, point in enumerate(points):
        others = np.delete(points, k)
        A[:, k] = point ** np.arange(M)
        G[k] = point ** np.arange(3) / np.prod(point - others)
        B[k, :last] = np.poly(others)[::-1]
    A[M - 1, last] = G[last, 2] = 1
    B[last] = np.poly(points)[::-1]
    return A, G, B
