"""Memory-efficient convolution (MEC, Cho and Brand 2017): copies along the height, overlapping views along the width.

im2col copies a pixel up to KH·KW times. Here the KH rows under a window are copied next to each other, in a layout in
which the windows of one row are overlapping views:

    (rows, W, KH, C, N)    the window at column w is the matrix (KW·KH·C, N) that starts at w: `correlate`
    (rows, KH, C, W, N)    element kw of all windows of a row is the matrix (KH·C, OW·N) that starts at kw:
                           `weight_gradient`

A convolution becomes a batch of small products, computed by one call of `matmul`. These are also fast: products of up
to `Device.small_product` multiplications use BLAS's small-matrix kernels, which read the operands in place.
"""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

from ..backend import Array, Device, blocks
from .windows import Limits, Window, add_up, finish, product_work, reach

_LEAST_IMAGES = 16  # products of fewer columns are slow in BLAS
# In a weight gradient products read dy faster from a transposed copy, if an operand is no larger than this. The copy
# pays from so many rows of the column matrix on.
_OPERAND = 1 << 15
_TRANSPOSED_FROM = 256


class _Tile(NamedTuple):
    """A range of output rows and images whose input rows are copied and multiplied at once."""

    rows: slice
    images: slice

    @property
    def shape(self) -> tuple[int, int]:
        """The number of rows and images."""
        return self.rows.stop - self.rows.start, self.images.stop - self.images.start


def applies(window: Window, weight: Array, groups: int, images: int, device: Device) -> bool:
    """Return whether MEC supports this convolution and is the faster way to compute it on this device.

    Args:
        weight: `(O, C / groups, KH, KW)`.
        images: how many there are, N.
    """
    return (
        groups == 1
        and window.dilation[1] == 1
        and min(window.padding) >= 0
        and images >= _LEAST_IMAGES
        and weight.size * _LEAST_IMAGES <= device.small_product
    )


def correlate(
    x: Array, weight: Array, bias: Array | None, window: Window, device: Device, limits: Limits | None = None
) -> Array:
    """Return the correlation of `x (C, H, W, N)` and `weight (O, C, KH, KW)` plus bias, `(O, OH, OW, N)`.

    With `limits` it is clipped to them.
    """
    xp = device.xp
    C, H, W, N = x.shape
    O, _, KH, KW = weight.shape
    OH, OW = window.output_size(H, W)
    width = window.padding[2] + W + window.padding[3]
    y = device.empty((O, OH, OW, N), x.dtype)
    filters = xp.ascontiguousarray(weight.transpose(0, 3, 2, 1)).reshape(O, KW * KH * C)
    bias = None if bias is None else bias[:, None]
    most, row_bytes = device.small_product // filters.size, width * KH * C * x.itemsize
    part_count = device.parts(product_work(KW * KH * C, O, OH * OW * N))
    row_blocks, image_blocks = _row_and_image_blocks(OH, N, most, row_bytes, part_count, device)
    flat, parts = y.reshape(O, -1), blocks(len(row_blocks), part_count)

    def multiply(part: slice) -> None:
        for rows in row_blocks[part]:
            for images in image_blocks:
                multiply_tile(_Tile(rows, images))
            # All images together, as these are long runs of memory.
            finish(flat[:, rows.start * OW * N : rows.stop * OW * N], bias, limits, device)

    def multiply_tile(tile: _Tile) -> None:
        R, n = tile.shape
        rows = device.scratch((R, width, KH, C, n), x.dtype, "columns")
        _stack_rows(x, window, tile, rows.transpose(3, 0, 2, 1, 4), device)
        windows = device.strided(
            rows,
            (R, OW, KW * KH * C, n),
            (rows.strides[0], rows.strides[1] * window.stride[1], *rows.strides[3:]),
        )
        result = y[:, tile.rows, :, tile.images].transpose(1, 2, 0, 3)
        xp.matmul(filters, windows, out=result)  # R·OW times (O, K) @ (K, n)

    device.map(multiply, parts)
    return y


def weight_gradient(x: Array, dy: Array, window: Window, device: Device) -> Array:
    """Return the gradient w.r.t. the weight of `correlate`, `(O, C, KH, KW)`; for a stride of 1 along the width."""
    xp = device.xp
    C, _, W, N = x.shape
    O, OH, OW, _ = dy.shape
    KH, KW = window.kernel
    K, width = KH * C, window.padding[2] + W + window.padding[3]
    transposing = K * KW >= _TRANSPOSED_FROM
    most = device.small_product // (K * O)
    if transposing:
        most = min(most, max(_LEAST_IMAGES, _OPERAND // K))
    row_bytes = (width * K + KW * K * O // N) * x.itemsize
    part_count = device.parts(product_work(K * KW, O, OH * OW * N))
    row_blocks, image_blocks = _row_and_image_blocks(OH, N, most, row_bytes, part_count, device)
    all_tiles = [_Tile(rows, images) for rows in row_blocks for images in image_blocks]
    parts = blocks(len(all_tiles), part_count)
    # One product takes as many neighbouring windows as keep it small; the number divides OW.
    images = max(tile.shape[1] for tile in all_tiles)
    joined = next(w for w in range(OW, 0, -1) if OW % w == 0 and (w * images <= most or w == 1))

    def accumulate(part: slice) -> Array:
        total = device.empty((KW, K * O), x.dtype)
        for i, tile in enumerate(all_tiles[part]):
            R, n = tile.shape
            rows = device.scratch((R, K, width * n), x.dtype, "columns")
            _stack_rows(x, window, tile, rows.reshape(R, KH, C, width, n).transpose(2, 0, 1, 3, 4), device)
            row, k, number = rows.strides
            columns = xp.lib.stride_tricks.as_strided(
                rows, (KW, R, OW // joined, K, joined * n), (number * n, row, number * n * joined, k, number)
            )
            dy_tile = dy[:, tile.rows, :, tile.images]
            if transposing:
                gradients = _transposed(dy_tile, device).reshape(R, OW // joined, joined * n, O)
            else:
                gradients = dy_tile.reshape(O, R, OW // joined, joined * n).transpose(1, 2, 3, 0)
            products = device.scratch((KW, R, OW // joined, K, O), x.dtype, "product")
            xp.matmul(columns, gradients, out=products)  # KW·R·OW/joined times (K, P) @ (P, O)
            target = total if i == 0 else device.scratch(total.shape, x.dtype, "sum")
            xp.sum(products.reshape(KW, -1, K * O), axis=1, out=target)
            if i:
                total += target
        return total

    total = add_up(device.map(accumulate, parts), device)
    return xp.ascontiguousarray(total.reshape(KW, KH, C, O).transpose(3, 2, 1, 0))


def _stack_rows(x: Array, window: Window, tile: _Tile, rows: Array, device: Device) -> None:
    """Copy the rows under the windows of a tile, padded, to `rows (C, R, KH, width, n)`."""
    _, H, W, _ = x.shape
    top, _, left, _ = window.padding
    inside = rows[:, :, :, left : left + W]
    pixels, image = device.as_runs(inside), device.as_runs(x[..., tile.images])
    if inside.shape != rows.shape:
        rows[:, :, :, :left] = 0
        rows[:, :, :, left + W :] = 0
    for kh in range(window.kernel[0]):
        met, image_rows = reach(tile.rows, window.stride[0], kh * window.dilation[0] - top, H)
        if met.stop - met.start < rows.shape[1]:
            inside[:, : met.start, kh] = 0
            inside[:, met.stop :, kh] = 0
        pixels[:, met, kh] = image[:, image_rows]


def _transposed(dy: Array, device: Device) -> Array:
    """Return a tile of `dy (O, R, OW, n)` as scratch memory `(R·OW·n, O)`, which products read faster."""
    O, P = len(dy), dy[0].size
    # Channels a power of two apart share a few sets of the cache, so they are moved apart first.
    apart = device.scratch((O, P + _LEAST_IMAGES), dy.dtype, "apart")[:, :P]
    apart.reshape(dy.shape)[...] = dy
    transposed = device.scratch((P, O), dy.dtype, "transposed")
    transposed[...] = apart.T
    return transposed


def _row_and_image_blocks(
    OH: int, N: int, most_images: int, row_bytes: int, parts: int, device: Device
) -> tuple[list[slice], list[slice]]:
    """Return blocks of rows of the output and blocks of images: those of a tile.

    Args:
        most_images: the most a product may take.
        row_bytes: scratch memory for one row of the output of one image.
        parts: the least number of blocks of rows, if there are that many rows.
    """
    budget = 2 * device.tile_bytes  # fewer calls save more here than staying in the second-level cache
    most = min(most_images, max(_LEAST_IMAGES, budget // row_bytes))
    # In multiples of 16, as products of 42 or 43 images take a tenth longer than those of 32 and 48.
    units = blocks(ceil(N / _LEAST_IMAGES), ceil(N / (most // _LEAST_IMAGES * _LEAST_IMAGES)))
    images = [slice(unit.start * _LEAST_IMAGES, min(N, unit.stop * _LEAST_IMAGES)) for unit in units]
    rows = max(1, budget // (row_bytes * ceil(N / len(images))))
    return blocks(OH, max(parts, ceil(OH / rows))), images
