"""Convolution row by row of the output: groups of few channels such as depthwise, and narrow layers without groups.

As few numbers as possible are copied (`row_columns.py`), and all groups and rows of a block are one call of `matmul`.
(MEC copies along the height instead: its products have N columns, too few for one row.)

The forward pass of few images is computed in this way too.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, gcd
from typing import TypeAlias

import numpy as np

from ..backend import Array, Device, Shape, blocks
from .row_columns import row_columns
from .windows import PARTIAL_SUMS, Limits, Pair, Window, add_up, finish, kept_array, product_work

_Correlation: TypeAlias = tuple[Array, Window, Array]
_LEAST_COLUMNS = 32  # of a product that BLAS computes with its small-matrix kernels
_FEW_IMAGES = 16  # fewer than these
_ROW_PRODUCT = 10**6  # multiply-adds of a row of positions, above which im2col's products of several rows are faster
_LEAST_CHANNELS = 8  # of the input, for its gradient without groups: products of fewer rows are slow
_FEWEST_CHANNELS = 4  # the same for few images
_LEAST_ROWS = 16  # of the column matrix, without groups: with fewer im2col is as fast
_MOST_CHANNELS = 32  # of a group's input and output; with more of them Winograd and im2col are faster


def applies(window: Window, weight: Array, groups: int, images: int, device: Device) -> bool:
    """Return whether this is a faster way than im2col to compute a convolution and its gradient w.r.t. the weight.

    Args:
        weight: `(O, C / groups, KH, KW)`.
        images: how many there are, N.
    """
    if groups > 1:
        return _few_channels(weight, groups)
    O, K = len(weight), weight[0].size
    narrow = weight.shape[1] <= device.row_channels and max(device.row_channels, K / 2) >= O
    return bool(narrow and K >= _LEAST_ROWS and images > 1 and window.kernel[1] > window.stride[1])


def applies_to_input_gradient(weight: Array, groups: int, images: int, device: Device) -> bool:
    """Return whether this is a faster way than im2col to compute the gradient w.r.t. the input; see `applies`."""
    if groups > 1:
        return _few_channels(weight, groups)
    O, C = weight.shape[:2]
    least = _FEWEST_CHANNELS if images < _FEW_IMAGES else _LEAST_CHANNELS
    return images > 1 and least <= C and bool(min(2 * device.row_channels, 4 * C) >= O)


def applies_to_few_images(weight: Array, size: tuple[int, int, int], device: Device) -> bool:
    """Return whether this is the faster way to compute the forward pass of a convolution without groups.

    Args:
        weight: `(O, C, KH, KW)`.
        size: of the output, `(OH, OW, N)`.
    """
    few = device.row_channels > 0 and size[2] < _FEW_IMAGES
    return few and weight.size * min(_LEAST_COLUMNS, size[1] * size[2]) <= _ROW_PRODUCT


def _few_channels(weight: Array, groups: int) -> bool:
    return bool(max(weight.shape[1], len(weight) // groups) <= _MOST_CHANNELS)


def correlate(
    x: Array,
    weight: Array,
    bias: Array | None,
    window: Window,
    groups: int,
    device: Device,
    limits: Limits | None = None,
    kept: dict[str, Array] | None = None,
) -> Array:
    """Return the correlation of `x (C, H, W, N)` and `weight (O, C / groups, KH, KW)` plus bias, `(O, OH, OW, N)`.

    Args:
        limits: what the output is clipped to, or None.
        kept: where the filters in the order of the columns are kept between calls with the same weight, or None.
    """
    C, H, W, N = x.shape
    O = weight.shape[0]
    y = device.empty((groups, O // groups, *window.output_size(H, W), N), weight.dtype)
    bias = None if bias is None else bias.reshape(groups, -1, 1, 1, 1)
    by_groups = weight.reshape(groups, O // groups, C // groups, *window.kernel)
    filters = kept_array(kept, "rows", lambda: _filters(by_groups, device))
    _correlate(x.reshape(groups, -1, H, W, N), [(filters, window, y)], bias, device, limits)
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
    dx = device.empty((groups, C // groups, *size, dy.shape[3]), weight.dtype)
    bias = None if bias is None else bias.reshape(groups, -1, 1, 1, 1)
    weight = weight.reshape(groups, -1, C // groups, *window.kernel).swapaxes(1, 2)
    dy = dy.reshape(groups, -1, *dy.shape[1:])
    correlations: list[_Correlation] = []
    for h in range(min(sh, size[0])):
        rows, row_dilation, above = _covering(h + window.padding[0], window.kernel[0], sh, window.dilation[0])
        for w in range(min(sw, size[1])):
            cols, col_dilation, before = _covering(w + window.padding[2], window.kernel[1], sw, window.dilation[1])
            elements, pixels = weight[..., rows, cols], dx[:, :, h::sh, w::sw]
            covering = Window(elements.shape[3:], (1, 1), (row_dilation, col_dilation), (above, 0, before, 0))
            correlations.append((_filters(elements, device), covering, pixels))
    _correlate(dy, correlations, bias, device)
    return dx.reshape(C, *size, -1)


def weight_gradient(x: Array, dy: Array, window: Window, groups: int, device: Device) -> Array:
    """Return the gradient w.r.t. the weight of `correlate`, from `x (C, H, W, N)` and `dy (O, OH, OW, N)`."""
    O, C = dy.shape[0] // groups, x.shape[0] // groups
    x, dy = x.reshape(groups, C, *x.shape[1:]), dy.reshape(groups, O, *dy.shape[1:])
    K, dtype = C * window.kernel[0] * window.kernel[1], np.promote_types(x.dtype, dy.dtype)
    parts = _parts(x, window, dy, device, at_most=PARTIAL_SUMS // (groups * K * O * dtype.itemsize))
    # Parts of the rows of one group have sums of their own.
    sums = [device.empty((groups, K, O), dtype) for _ in range(len(parts) if groups == 1 else 1)]

    def accumulate(number: int) -> None:
        totals = sums[number % len(sums)]
        for g, row_blocks in parts[number]:
            for i, rows in enumerate(row_blocks):
                lines, columns = _lines(dy[g, :, rows]), row_columns(x[g], window, rows, dy.shape[3], device)
                for j, positions in enumerate(_positions(lines, columns, device)):
                    product = device.scratch((*columns.shape[:3], O), dtype, "product")
                    # (K, OW·N) @ (OW·N, O)
                    device.matmul(columns[..., positions], lines[..., positions].swapaxes(2, 3), out=product)
                    if i or j:
                        totals[g] += product.sum(axis=1)
                    else:
                        device.xp.sum(product, axis=1, out=totals[g])

    device.map(accumulate, range(len(parts)))
    dweight = add_up(sums, device).reshape(groups, *window.kernel, C, O)
    return device.xp.ascontiguousarray(dweight.transpose(0, 4, 3, 1, 2)).reshape(groups * O, C, *window.kernel)


def prepare(
    shape: Shape, weight: Array, bias: Array | None, window: Window, device: Device, limits: Limits | None
) -> Callable[[Array], Array]:
    """Return a function that computes `correlate` without groups for inputs of one shape.

    All that follows from the shapes is done here once, which is half the time of a small layer.

    Args:
        shape: `(C, H, W, N)`.
        weight, bias, window, limits: those of `correlate`.
    """
    N, O, (OH, OW) = shape[3], len(weight), window.output_size(*shape[1:3])
    x, y = (device.empty((1, *array), weight.dtype) for array in (shape, (O, OH, OW, N)))
    parts = _parts(x, window, y, device)
    (_, row_blocks), *_ = parts[0]
    few = OW * N * weight.size <= _ROW_PRODUCT
    if len(parts) > 1 or len(row_blocks) > 1 or not few or weight[0].size == 1:
        kept: dict[str, Array] = {}
        return lambda x: correlate(x, weight, bias, window, 1, device, limits, kept)
    filters, rows = _filters(weight[None], device)[0], row_blocks[0]
    added = None if bias is None else bias[:, None]

    def compute(x: Array) -> Array:
        columns = row_columns(x[None], window, rows, OW, device)[0]
        y = device.empty((O, OH, OW, N), x.dtype)
        with device.one_blas_thread():
            device.xp.matmul(filters, columns, out=y.reshape(O, OH, OW * N).swapaxes(0, 1))  # (O, K) @ (K, OW·N)
        finish(y.reshape(O, -1), added, limits, device)
        return y

    return compute


def _correlate(
    x: Array, correlations: list[_Correlation], bias: Array | None, device: Device, limits: Limits | None = None
) -> None:
    """Write correlations of one input, each plus bias.

    Args:
        x: `(G, C, H, W, N)`, G groups of C channels.
        correlations: for each its filters `(G, 1, O, KH·KW·C)`, which may have no elements, its window and its output
            `(G, O, OH, OW, N)`. That may be non-contiguous, and need another padding at the bottom and right than the
            window's. The first output is the largest.
        bias: `(G, O, 1, 1, 1)` or None.
        limits: what the outputs are clipped to, or None.
    """
    largest = max((window for _, window, _ in correlations), key=lambda window: window.kernel)
    parts = _parts(x, largest, correlations[0][2], device, len(correlations))

    def compute(part: list[tuple[slice, list[slice]]]) -> None:
        for g, row_blocks in part:
            added = None if bias is None else bias[g]
            for rows in row_blocks:
                # Where the outputs are parts of one array, they follow each other while it is in cache.
                for filters, window, y in correlations:
                    here = slice(rows.start, min(rows.stop, y.shape[2]))
                    if here.start < here.stop:
                        _correlate_rows(x[g], filters[g], added, window, here, y[g, :, here], device, limits)

    device.map(compute, parts)


def _filters(weight: Array, device: Device) -> Array:
    """Return `weight (G, O, C, KH, KW)` in the order of the columns, `(G, 1, O, KH·KW·C)`."""
    G, O = weight.shape[:2]
    return device.xp.ascontiguousarray(weight.transpose(0, 1, 3, 4, 2)).reshape(G, 1, O, -1)


def _correlate_rows(
    x: Array,
    filters: Array,
    bias: Array | None,
    window: Window,
    rows: slice,
    target: Array,
    device: Device,
    limits: Limits | None,
) -> None:
    """Write some rows of the output of some groups, `(G, O, rows, OW, N)`.

    Args:
        filters: `(G, 1, O, KH·KW·C)`.
    """
    OW, N = target.shape[3:]
    if not filters.size:
        target[...] = 0 if bias is None else bias
        return
    columns = row_columns(x, window, rows, OW, device)
    in_place = target.strides[3:] == (N * target.itemsize, target.itemsize)
    result = target if in_place else device.scratch(target.shape, target.dtype, "product")
    lines = _lines(result)
    # NumPy has no fast product of one column with one row.
    single = filters.shape[3] == 1 and filters.dtype == columns.dtype
    product = device.xp.multiply if single else device.matmul
    for positions in _positions(lines, columns, device):
        product(filters, columns[..., positions], out=lines[..., positions])  # (O, K) @ (K, OW·N)
    finish(result, bias, limits, device)
    if not in_place:
        device.as_runs(target)[...] = device.as_runs(result)


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
    return blocks(width, ceil(width / most)) if most >= _LEAST_COLUMNS else [slice(None)]


def _parts(
    x: Array, window: Window, y: Array, device: Device, correlations: int = 1, at_most: int | None = None
) -> list[list[tuple[slice, list[slice]]]]:
    """Cut the work into parts, of blocks of groups, each with blocks of rows of the output that fit a tile.

    Args:
        x: `(G, C, H, W, N)`.
        y: `(G, O, OH, OW, N)`.
        correlations: how many such outputs there are.
        at_most: the largest number of parts of the rows of one group.
    """
    (G, C, *_), (_, O, OH, OW, N), (KH, KW) = x.shape, y.shape, window.kernel
    work = correlations * G * product_work(KH * KW * C, O, OH * OW * N)
    parts = device.parts(work, at_most=G if G > 1 else OH if at_most is None else min(OH, at_most))
    # Each row of positions adds a few rows of columns, and in the weight gradient a product (K, O).
    row_bytes = max(min(KH, window.stride[0]) * OW * N, KH * O) * KW * C * x.itemsize
    rows = max(1, device.tile_bytes // max(1, row_bytes))
    if G == 1:
        row_blocks = blocks(OH, max(parts, ceil(OH / rows)))
        return [[(slice(0, 1), row_blocks[part])] for part in blocks(len(row_blocks), parts)]
    group_blocks = blocks(G, max(parts, ceil(G / max(1, rows // OH))))
    row_blocks = blocks(OH, ceil(OH / rows))
    return [[(groups, row_blocks) for groups in group_blocks[part]] for part in blocks(len(group_blocks), parts)]
