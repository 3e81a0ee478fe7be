"""Groups of each sample's values to mean 0 and variance 1, times a weight, plus a bias: forward and backward.

The letters used here:

    A    groups of values that share a mean and a variance, in each of M columns
    B    weights of a group; S values in a row share one
    M    columns: the samples, or the pixels of all samples

Values lie in memory as `(A, B, S, M)`. Where M is small, several rows of M numbers are merged into one of L, so that
loops over rows are long: the kernels see `(A, B, R, L)`, with `R·L = S·M`. They work on pieces that stay in cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import reduce
from math import ceil
from operator import add
from typing import Any, NamedTuple

from ..backend import ELEMENT_WORK, Array, Device, array_namespace, blocks, chain, device_of


class _Cache(NamedTuple):
    values: Array  # (A, B, S, M): the input
    moments: Array  # (3, A, 1, 1, M): the rounded mean, its rounding error (the residual), 1 / standard deviation
    weight: Array | None  # (A or 1, B, 1, 1)
    has_bias: bool


def standardize_forward(values: Array, weight: Array | None, bias: Array | None, eps: float) -> tuple[Array, Any]:
    """Return `(values - mean) / √(variance + eps) · weight + bias`, with means over axes 1 and 2.

    Args:
        values: contiguous, `(A, B, S, M)`, with at least one value in each group.
        weight, bias: `(A or 1, B, 1, 1)`, or None.
        eps: added to the variance.

    Returns:
        `y` in the shape of `values`, and what `standardize_backward` needs.
    """
    device = device_of(values)
    cut = _Cut(values, device)
    y = device.empty(values.shape, values.dtype)
    moments = device.empty((3, len(values), 1, 1, values.shape[3]), values.dtype)
    x_rows, y_rows = cut.rows(values), cut.rows(y)

    def normalize(groups: slice, columns: slice) -> None:
        x, y = x_rows[groups, ..., columns], y_rows[groups, ..., columns]
        mean, residual, scale = cut.moments(moments, groups, columns)
        mean_of(cut.total(cut.map(lambda b, r: device.column_sums(_matrices(x[:, b, r])))), cut.count, mean)
        means = cut.merge(mean)

        def centre(b: slice, r: slice) -> tuple[Array, Array]:
            centred = y[:, b, r]
            squares = device.scratch(centred.shape, x.dtype, "products")
            centre_and_multiply(x[:, b, r], means, None, centred, squares)
            return device.column_sums(_matrices(centred)), device.column_sums(_matrices(squares))

        sums, squares = zip(*cut.map(centre), strict=True)
        deviation(cut.total(sums), cut.total(squares), cut.count, eps, residual, scale)
        parameters = _part(weight, groups), _part(bias, groups)
        operands: tuple[Array | None, ...] = cut.merge(residual), cut.merge(scale), *parameters
        if x.shape[2] > 1:  # rows with the same weight and bias: two passes over them, not four
            factor, shift = _combine(*operands)
            operands = None, factor, None, shift

        def finish(b: slice, r: slice) -> None:
            scale_and_shift(y[:, b, r], *(_of(operand, b) for operand in operands))

        cut.map(finish)

    cut.run(normalize)
    return y, _Cache(values, moments, weight, bias is not None)


# As in batch_norm.py, the rounding error of the mean (the residual) is subtracted as well.


@chain
def mean_of(sums: Array, count: int, mean: Array) -> None:
    mean[...] = sums / count


@chain
def centre_and_multiply(x: Array, mean: Array, other: Array | None, centred: Array, products: Array) -> None:
    """Write the centred values, and their products with others, or with themselves."""
    xp = array_namespace(x)
    xp.subtract(x, mean, out=centred)
    xp.multiply(centred, centred if other is None else other, out=products)


@chain
def deviation(sums: Array, squares: Array, count: int, eps: float, residual: Array, scale: Array) -> None:
    xp = array_namespace(sums)
    residual[...] = sums / count
    scale[...] = 1 / xp.sqrt(xp.maximum(squares / count - residual * residual, 0) + eps)


@chain
def _combine(residual: Array, scale: Array, weight: Array | None, bias: Array | None) -> tuple[Array, Array]:
    factor = scale if weight is None else scale * weight
    return factor, -residual * factor if bias is None else bias - residual * factor


@chain
def scale_and_shift(y: Array, residual: Array | None, scale: Array, weight: Array | None, bias: Array | None) -> None:
    if residual is not None:
        y -= residual
    y *= scale
    if weight is not None:
        y *= weight
    if bias is not None:
        y += bias


def standardize_backward(
    dy: Array, cache: Any, *, input_gradient: bool = True, parameter_gradients: bool = True
) -> tuple[Array | None, Array | None, Array | None]:
    """Return the gradients w.r.t. the values, weight and bias of `standardize_forward`.

    Args:
        dy: contiguous, in the shape of the values.
        cache: what the forward call returned.
        input_gradient: False to skip the gradient w.r.t. the values.
        parameter_gradients: False to skip those w.r.t. weight and bias.

    Returns:
        `dx`, and `dweight` and `dbias`, both `(A, B)` (to be summed where all groups share a weight), each None if it
        was not asked for or there was no such argument.
    """
    values, moments, weight, has_bias = cache
    device = device_of(dy)
    xp = device.xp
    cut = _Cut(values, device)
    dx = device.empty(dy.shape, dy.dtype) if input_gradient else None
    x_rows, dy_rows, dx_rows = cut.rows(values), cut.rows(dy), dx if dx is None else cut.rows(dx)
    A, B = x_rows.shape[:2]
    # The parameters' gradients, summed over each block of columns and slice of R.
    dweight, dbias = (
        device.empty((len(cut.columns), len(cut.slices_of_r), A, B, 1), dy.dtype) if wanted else None
        for wanted in (parameter_gradients and weight is not None, parameter_gradients and has_bias)
    )

    def differentiate(groups: slice, columns: slice) -> None:
        x, dy = x_rows[groups, ..., columns], dy_rows[groups, ..., columns]
        out: Any = None if dx_rows is None else dx_rows[groups, ..., columns]
        mean, residual, scale = cut.moments(moments, groups, columns)
        means, scales, offsets = (cut.merge(moment) for moment in (mean, scale, residual * scale))
        weights, block = _part(weight, groups), cut.columns.index(columns)

        def sum_up(b: slice, r: slice) -> tuple[Array, Array] | None:
            here = dy[:, b, r]
            products = device.scratch(here.shape, dy.dtype, "products")
            centred = device.scratch(here.shape, dy.dtype, "centred") if out is None else out[:, b, r]
            centre_and_multiply(x[:, b, r], means, here, centred, products)
            # (A, B, L): one row for each weight
            here, products = (_one_row(array, device) for array in (here, products))
            place = block, cut.slices_of_r.index(r), groups, b
            if dweight is not None:
                xp.subtract(
                    device.row_sums(products, scales[:, 0]), device.row_sums(here, offsets[:, 0]), out=dweight[place]
                )
            if dbias is not None:
                dbias[place] = device.row_sums(here)
            if out is None:
                return None
            w = None if weights is None else weights[:, b, 0].transpose(0, 2, 1)
            return device.column_sums(here, w), device.column_sums(products, w)

        totals = cut.map(sum_up)
        if out is None:
            return
        sums, dots = (cut.total(part) for part in zip(*totals, strict=True))
        slope, shift = map(cut.merge, _coefficients(sums, dots, residual, scale, -cut.count))
        if x.shape[2] > 1 and weights is not None:  # one pass over rows with the same weight, not two
            scales, weights = scales * weights, None

        def write(b: slice, r: slice) -> None:
            here = dy[:, b, r]
            products = device.scratch(here.shape, dy.dtype, "products")
            _write_dx(here, _of(scales, b), _of(weights, b), slope, shift, products, out[:, b, r])

        cut.map(write)

    cut.run(differentiate)
    sums = [None if rows is None else rows.sum(axis=(0, 1, 4)) for rows in (dweight, dbias)]
    return dx, sums[0], sums[1]


# dx = scale·(w·dy - mean(w·dy) - x̂·mean(w·dy·x̂)) = w·scale·dy + slope·centred + shift,
# as x̂ = (centred - residual)·scale


@chain
def _coefficients(sums: Array, dots: Array, residual: Array, scale: Array, minus_count: int) -> tuple[Array, Array]:
    slope = scale * scale * scale * (dots - residual * sums) / minus_count
    return slope, scale * sums / minus_count - slope * residual


@chain
def _write_dx(dy: Array, scale: Array, weight: Array | None, *operands: Any) -> None:
    slope, shift, products, dx = operands  # dx is the centred input before
    array_namespace(dy).multiply(dy, scale, out=products)
    if weight is not None:
        products *= weight
    dx *= slope
    dx += shift
    dx += products


class _Cut:
    """How `(A, B, S, M)` is cut into blocks of groups and columns, and these into pieces that stay in cache."""

    def __init__(self, values: Array, device: Device) -> None:
        A, B, S, M = values.shape
        self.count = B * S
        self._device = device
        divisors = (m for m in range(1, S + 1) if S % m == 0)
        self._merged = next(m for m in divisors if m == S or _long_enough(m * M, S // m, device))
        R, L = S // self._merged, self._merged * M
        self._shape = A, B, R, L
        piece = max(1, device.tile_bytes // values.itemsize)
        threads = device.parts(values.size * ELEMENT_WORK)
        # Columns can only be parted where they are not merged. Reading short parts of rows takes longer than it saves.
        most = L // (4 * device.long_row) if self._merged == 1 else 1
        self.columns = blocks(L, max(1, min(most, max(ceil(B * R * L / piece), ceil(threads / max(1, A))))))
        size = B * R * L // max(1, len(self.columns))
        self._groups = blocks(A, max(ceil(A * size / piece), ceil(threads / max(1, len(self.columns)))))
        # Threads share the blocks, or if these are few, the pieces of each.
        self._in_parallel = len(self._groups) * len(self.columns) >= threads
        count = max(ceil(size / piece), 1 if self._in_parallel else threads)
        parts_of_b, parts_of_r = min(B, count), min(R, ceil(count / B))
        self.slices_of_r = blocks(R, parts_of_r)
        self._pieces = [(b, r) for b in blocks(B, parts_of_b) for r in self.slices_of_r]

    def rows(self, values: Array) -> Array:
        """Return the values as `(A, B, R, L)`."""
        return values.reshape(self._shape)

    def run(self, function: Callable[[slice, slice], None]) -> None:
        """Call a function with each block's groups and columns."""
        tasks = [(groups, columns) for groups in self._groups for columns in self.columns]
        with self._device.long_rows():
            if self._in_parallel:
                self._device.map(lambda task: function(*task), tasks)
            else:
                for task in tasks:
                    function(*task)

    def map(self, function: Callable[[slice, slice], Any]) -> list[Any]:
        """Return what a function returns for each piece of a block: slices of B and R."""
        return self._device.map(lambda piece: function(*piece), self._pieces)

    def moments(self, moments: Array, groups: slice, columns: slice) -> tuple[Array, Array, Array]:
        """Return a block's part of each of `moments (3, A, 1, 1, M)`."""
        if self._merged > 1:  # columns are never parted
            columns = slice(None)
        mean, residual, scale = (moments[i, groups, ..., columns] for i in range(3))
        return mean, residual, scale

    def total(self, sums: Iterable[Array]) -> Array:
        """Return the sums `(A, 1, 1, M)` of a block from those of its pieces, `(A, 1, L)`."""
        total = reduce(add, sums)
        total = total.reshape(len(total), 1, self._merged, -1)
        return total if self._merged == 1 else total.sum(axis=2, keepdims=True)

    def merge(self, moment: Array) -> Array:
        """Return numbers of each column, `(A, 1, 1, M)`, for merged rows: `(A, 1, 1, L)`."""
        if self._merged == 1:
            return moment
        A, _, _, M = moment.shape
        rows = self._device.xp.empty((A, 1, self._merged, M), moment.dtype)
        rows[...] = moment
        return rows.reshape(A, 1, 1, -1)


def _long_enough(length: int, rows: int, device: Device) -> bool:
    """Return whether merged rows have a good length; where they are few, what is merged for them costs as much."""
    return length >= (device.long_row if rows >= 16 else device.long_row // 2)


def _matrices(x: Array) -> Array:
    """Return a piece `(A, B, R, L)` as `(A, B·R, L)`."""
    A, B, R, L = x.shape
    return x.reshape(A, B * R, L)


def _one_row(x: Array, device: Device) -> Array:
    """Return a piece `(A, B, R, L)` summed over R, `(A, B, L)`."""
    A, B, R, L = x.shape
    return (x if R == 1 else device.column_sums(x.reshape(A * B, R, L))).reshape(A, B, L)


def _part(parameter: Array | None, groups: slice) -> Array | None:
    """Return the part of a parameter `(A or 1, …)` that belongs to some groups."""
    return parameter if parameter is None or len(parameter) == 1 else parameter[groups]


def _of(operand: Array | None, b: slice) -> Array | None:
    """Return the part of an operand `(A, B or 1, …)` that belongs to a piece."""
    return operand if operand is None or operand.shape[1] == 1 else operand[:, b]
