"""Depthwise convolution, and other grouped ones with few channels in each group, by products with banded matrices.

A depthwise convolution multiplies each channel with its own filter: a product of one row, which leaves most of a
processor idle. Here several rows of the output, T, are computed by one product. Row t of its first matrix has the
filter from column t on, and zeros elsewhere. For a kernel of three rows, T = 2 and stride 1:

    [ f0 f1 f2 0  ]     [ row 0 ]
    [ 0  f0 f1 f2 ]  @  [ row 1 ]     f0, f1, f2: the rows of the filter, each of KW numbers
                        [ row 2 ]
                        [ row 3 ]

The second matrix has KW copies of each row of the image, one for each column of the window: what that covers at all
positions along the row. In the layout (rows, KW, OW, N) the matrices of all products are overlapping views, so that one
call of `matmul` computes them. A weight gradient is the sum along the diagonals of the products `dy @ columnsᵀ`.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, gcd
from typing import NamedTuple

from ..backend import ELEMENT_WORK, Array, Device, blocks
from .windows import Pair, Window, reach

_MOST_CHANNELS = 4  # in a group; with more of them other algorithms have products of enough rows


def applies(weight: Array, groups: int, device: Device) -> bool:
    """Return whether this is the faster way to compute a convolution on this device.

    Args:
        weight: `(O, C / groups, KH, KW)`.
    """
    return groups > 1 and device.band_rows > 0 and max(weight.shape[1], len(weight) // groups) <= _MOST_CHANNELS


def correlate(x: Array, weight: Array, bias: Array | None, window: Window, groups: int, device: Device) -> Array:
    """Return the correlation of `x (C, H, W, N)` and `weight (O, C / groups, KH, KW)` plus bias, `(O, OH, OW, N)`."""
    C, H, W, N = x.shape
    O = weight.shape[0]
    y = device.empty((groups, O // groups, *window.output_size(H, W), N), x.dtype)
    bias = None if bias is None else bias.reshape(groups, -1, 1, 1, 1)
    weight = weight.reshape(groups, O // groups, C // groups, *window.kernel)
    _correlate(x.reshape(groups, -1, H, W, N), weight, bias, window, y, device)
    return y.reshape(O, *y.shape[2:])


def input_gradient(
    dy: Array, weight: Array, window: Window, groups: int, size: Pair, device: Device, bias: Array | None = None
) -> Array:
    """Return `dx (C, H, W, N)`, the gradient w.r.t. the input of `correlate`, from `dy (O, OH, OW, N)`.

    With a stride, the pixels of every stride-th row and column are covered by the same elements of the window: their
    gradient is a correlation of `dy` with these elements.

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
            part, elements = dx[:, :, h::sh, w::sw], weight[..., rows, :][..., cols]
            if elements.size:
                dilation = (row_dilation, col_dilation)
                stride_1 = Window(elements.shape[3:], (1, 1), dilation, (above, 0, before, 0))
                _correlate(dy, elements, bias, stride_1, part, device)
            else:
                part[...] = 0 if bias is None else bias
    return dx.reshape(C, *size, -1)


def weight_gradient(x: Array, dy: Array, window: Window, groups: int, device: Device) -> Array:
    """Return the gradient w.r.t. the weight of `correlate`, from `x (C, H, W, N)` and `dy (O, OH, OW, N)`."""
    O, OH, OW, N = dy.shape
    C = x.shape[0]
    x, dy = x.reshape(groups, -1, *x.shape[1:]), dy.reshape(groups, -1, OH, OW, N)
    dweight = device.empty((groups, O // groups, *window.kernel, C // groups), x.dtype)
    bands = _make_bands(window, OH, device)
    group_blocks, row_blocks, parts = _blocks(x, dy, bands, window, device)

    def accumulate(part: slice) -> None:
        for g in group_blocks[part]:
            total = dweight[g]
            total[...] = 0
            for rows in row_blocks:
                columns = _lower(x[g], window, bands, rows, OW, device)
                for lines, matrices, tile in _products(dy[g, :, rows], columns, bands, device):
                    shape = (*lines.shape[:4], matrices.shape[3])
                    product = device.scratch(shape, x.dtype, "product")
                    device.xp.matmul(lines, matrices.swapaxes(3, 4), out=product)  # (T, OW·N) @ (OW·N, R·KW·C)
                    product = product.reshape(*shape[:4], tile.R, *dweight.shape[3:])
                    total += _diagonals(product, tile, device).sum(axis=(2, 3))

    device.map(accumulate, parts)
    return device.xp.ascontiguousarray(dweight.transpose(0, 1, 4, 2, 3)).reshape(O, C // groups, *window.kernel)


class _Bands(NamedTuple):
    """A product's rows: T of the output, and the R of the padded image that they depend on."""

    T: int
    KH: int
    stride: int
    dilation: int

    @property
    def R(self) -> int:
        return (self.T - 1) * self.stride + (self.KH - 1) * self.dilation + 1


def _make_bands(window: Window, OH: int, device: Device) -> _Bands:
    T = ceil(OH / ceil(OH / device.band_rows))  # with no more products, the last has nearly as many rows as the others
    return _Bands(T, window.kernel[0], window.stride[0], window.dilation[0])


def _covering(first: int, kernel: int, stride: int, dilation: int) -> tuple[slice, int, int]:
    """Return the elements of the window that cover every stride-th pixel from one on, in reverse order, along one axis.

    Args:
        first: that pixel, counted from the start of the padding.

    Returns:
        a slice of the elements; the positions between two of them that cover the same pixel; and how many positions
        before the first there would have to be, so that all elements cover that pixel.
    """
    period = gcd(stride, dilation)
    step = stride // period
    covering = [k for k in range(kernel) if (first - k * dilation) % stride == 0]
    if not covering:
        return slice(0, 0), 1, 0
    last = covering[-1]
    return slice(last, None, -step), dilation // period, -((first - last * dilation) // stride)


def _correlate(x: Array, weight: Array, bias: Array | None, window: Window, y: Array, device: Device) -> None:
    """Write a correlation plus bias to y, whose size may need other padding at the bottom and right than the window's.

    Args:
        x: `(G, C, H, W, N)`, G groups of C channels.
        weight: `(G, O, C, KH, KW)`.
        bias: `(G, O, 1, 1, 1)` or None.
        y: `(G, O, OH, OW, N)`.
    """
    G, O, OH, OW, N = y.shape
    bands = _make_bands(window, OH, device)
    weight = weight.transpose(0, 1, 3, 4, 2)  # (G, O, KH, KW, C)
    matrix = device.xp.zeros((G, O, 1, bands.T, bands.R, *weight.shape[3:]), x.dtype)
    _diagonals(matrix, bands, device)[...] = weight[:, :, None, None]
    matrix = matrix.reshape(G, O, 1, bands.T, -1)
    group_blocks, row_blocks, parts = _blocks(x, y, bands, window, device)
    in_place = y.strides[3:] == (N * y.itemsize, y.itemsize)

    def compute(part: slice) -> None:
        for g in group_blocks[part]:
            for rows in row_blocks:
                columns = _lower(x[g], window, bands, rows, OW, device)
                target = y[g, :, rows]
                result = target if in_place else device.scratch(target.shape, y.dtype, "product")
                for lines, matrices, tile in _products(result, columns, bands, device):
                    # (T, R·KW·C) @ (R·KW·C, OW·N)
                    device.xp.matmul(matrix[g, :, :, : tile.T, : matrices.shape[3]], matrices, out=lines)
                if bias is not None:
                    result += bias[g]
                if not in_place:
                    target[...] = result

    device.map(compute, parts)


def _diagonals(matrix: Array, bands: _Bands, device: Device) -> Array:
    """Return where the filter's numbers are in banded matrices, as a view.

    Args:
        matrix: `(G, O, tiles, T, R, KW, C)`.

    Returns:
        `(G, O, tiles, T, KH, KW, C)`.
    """
    line, row = matrix.strides[3:5]
    return device.xp.lib.stride_tricks.as_strided(
        matrix,
        (*matrix.shape[:4], bands.KH, *matrix.shape[5:]),
        (*matrix.strides[:3], line + bands.stride * row, bands.dilation * row, *matrix.strides[5:]),
    )


def _products(
    lines: Array, columns: Array, bands: _Bands, device: Device
) -> Iterator[tuple[Array, Array, _Bands]]:
    """Yield views for batches of products: all full tiles of T rows, then the rows that are left.

    Args:
        lines: `(G, O, rows, OW, N)`, rows of the output or of its gradient.
        columns: what `_lower` made for them.

    Yields:
        lines `(G, O, tiles, T, OW·N)`, columns `(G, 1, tiles, R·KW·C, OW·N)`, and the T and R of these.
    """
    G, O, rows, OW, N = lines.shape
    lines, width, T = lines.reshape(G, O, rows, OW * N), OW * N, bands.T
    group, row, _, line, *_ = columns.strides
    for start, count, tile in ((0, rows // T, bands), (rows // T * T, 1, bands._replace(T=rows % T))):
        if count and tile.T:
            K = tile.R * columns.shape[2] * columns.shape[3]
            matrices = device.xp.lib.stride_tricks.as_strided(
                columns[:, start * bands.stride :],
                (G, 1, count, K, width),
                (group, 0, T * bands.stride * row, line, columns.itemsize),
            )
            some = lines[:, :, start : start + count * tile.T].reshape(G, O, count, tile.T, width)
            pieces = ceil(tile.T * K * width / device.small_product) if device.small_product else 1
            for part in blocks(width, pieces):
                yield some[..., part], matrices[..., part], tile


def _lower(x: Array, window: Window, bands: _Bands, rows: slice, OW: int, device: Device) -> Array:
    """Copy the rows of the image under some rows of positions, once for each column of the window, padded.

    Args:
        x: `(G, C, H, W, N)`.
        rows: of the output.

    Returns:
        `(G, R, KW, C, OW, N)` in the scratch slot "columns": R rows of the image, and for each column of the window what
        it covers at the OW positions along them.
    """
    G, C, H, W, N = x.shape
    (top, _, left, _), KW = window.padding, window.kernel[1]
    first = rows.start * bands.stride - top
    R = bands._replace(T=rows.stop - rows.start).R
    columns = device.scratch((G, R, KW, C, OW, N), x.dtype, "columns")
    inside, image_rows = reach(slice(0, R), 1, first, H)
    across = [reach(slice(0, OW), window.stride[1], kw * window.dilation[1] - left, W) for kw in range(KW)]
    if columns.nbytes <= 2 * KW * device.launch_bytes:
        columns[...] = 0
    else:
        columns[:, : inside.start] = 0
        columns[:, inside.stop :] = 0
        for kw, (cols, _) in enumerate(across):
            columns[:, inside, kw, :, : cols.start] = 0
            columns[:, inside, kw, :, cols.stop :] = 0
    x = x[:, :, image_rows].swapaxes(1, 2)
    for kw, (cols, image_cols) in enumerate(across):
        columns[:, inside, kw, :, cols] = x[:, :, :, image_cols]
    return columns


def _blocks(
    x: Array, y: Array, bands: _Bands, window: Window, device: Device
) -> tuple[list[slice], list[slice], list[slice]]:
    """Return blocks of groups, blocks of rows of the output whose columns stay in cache, and parts: slices of the former.

    Args:
        x: `(G, C, H, W, N)`.
        y: `(G, O, OH, OW, N)`.
    """
    (G, C, *_), (_, O, OH, OW, N), KW = x.shape, y.shape, window.kernel[1]
    tiles, row_size = ceil(OH / bands.T), KW * C * OW * N
    parts = device.parts(G * OH * row_size * (bands.R * O + ELEMENT_WORK), at_most=G)
    budget = max(1, device.tile_bytes // (4 * row_size * bands.T * bands.stride * x.itemsize))  # tiles
    row_blocks = [
        slice(part.start * bands.T, min(OH, part.stop * bands.T)) for part in blocks(tiles, ceil(tiles / budget))
    ]
    group_blocks = blocks(G, max(parts, ceil(G / max(1, budget // tiles))))
    return group_blocks, row_blocks, blocks(len(group_blocks), parts)
