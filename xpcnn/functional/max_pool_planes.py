"""Max pooling on planes: the maxima with their indices, and the gradients; see `planes.py`."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

from ..backend import Array, Device, Shape
from .planes import Axis, plane_of_zeros, start_of


def argmax_finder(
    axes: tuple[Axis, Axis], shape: Shape, dtype: Any, index_dtype: Any, device: Device
) -> Callable[[Array, Array, Array], None]:
    """Return a function that writes the maxima of `x` and the index of each window's first, if none is NaN or -inf.

    The columns come first: of equal maxima in two columns, the first is the one in the upper row.

    Args:
        shape: of `x`, `(C, H, W, N)`.
    """
    rows, cols = axes
    C, H, W, N = shape
    step = len(cols.elements)
    col_planes, split_cols = cols.splitter(C * H, N, dtype, -inf, device, "columns")
    row_planes, split_rows = rows.splitter(C, cols.length * N, dtype, -inf, device, "rows")
    code_planes, split_codes = rows.splitter(C, cols.length * N, index_dtype, 0, device, "row codes")
    lines = device.scratch((C, H, cols.length * N), dtype, "lines")
    line_codes = device.scratch(lines.shape, index_dtype, "line codes")
    maxima = device.scratch((C, rows.length, cols.length, N), dtype, "result")
    codes = device.scratch(maxima.shape, index_dtype, "codes")
    find_in_cols = _first_maximum(cols.runs(col_planes), None, 1, lines, line_codes, device)
    find_in_rows = _first_maximum(rows.runs(row_planes), rows.runs(code_planes), step, maxima, codes, device)
    positions = slice(None), slice(rows.positions), slice(cols.positions)

    def find(x: Array, y: Array, argmax: Array) -> None:
        split_cols(x.reshape(C * H, W, N))
        find_in_cols()
        split_rows(lines)
        split_codes(line_codes)
        find_in_rows()
        y[...] = maxima[positions]
        argmax[...] = codes[positions]

    return find


def _first_maximum(
    runs: list[Array], codes: list[Array] | None, step: int, maximum: Array, argmax: Array, device: Device
) -> Callable[[], None]:
    """Return a function that writes the largest of several runs, and the code of the first run that has it.

    Args:
        codes: None, or what is added to the code of each run, less than `step`.
        step: between the codes of runs, which are 0, step, 2·step, …
    """
    xp = device.xp
    length = len(runs[0])
    maximum, argmax = start_of(maximum, length), start_of(argmax, length)
    rises = device.scratch((length,), bool, "rises")
    code = rises.view(argmax.dtype)
    added = [argmax.dtype.type(number * step) for number in range(len(runs))]

    def find() -> None:
        before, best = runs[0], None if codes is None else codes[0]
        if len(runs) == 1:
            maximum[...], argmax[...] = before, 0 if best is None else best
        for number, run in enumerate(runs[1:], 1):
            xp.greater(run, before, out=rises)
            before = xp.maximum(before, run, out=maximum)
            # Codes ascend, so the largest one at which the maximum rose is that of its first occurrence.
            risen_code = added[number] if codes is None else codes[number] + added[number]
            if best is None:
                best = xp.multiply(code, risen_code, out=argmax)
            else:
                best = xp.maximum(best, xp.multiply(code, risen_code, out=code), out=argmax)

    return find


def gradient_scatterer(
    axes: tuple[Axis, Axis], shape: Shape, dtype: Any, index_dtype: Any, device: Device
) -> Callable[[Array, Array, Array], None]:
    """Return a function that writes to `dx` the sum of the gradients `dy` of the windows whose maximum a pixel is.

    Args:
        shape: of `dx`, `(C, H, W, N)`.
    """
    xp = device.xp
    rows, cols = axes
    C, H, W, N = shape
    spread_dy = plane_of_zeros(axes, C, N, dtype, device, "values")
    spread_argmax = plane_of_zeros(axes, C, N, index_dtype, device, "codes")
    positions = slice(None), slice(rows.positions), slice(cols.positions)
    gradients, index = spread_dy.reshape(-1), spread_argmax.reshape(-1)
    chosen = device.scratch(index.shape, bool, "rises")
    part = device.scratch(gradients.shape, dtype, "part")
    sums = device.scratch((C, rows.length, cols.length * N), dtype, "rows")
    lines = device.scratch((C, H, cols.length * N), dtype, "lines")
    join_rows = rows.joiner([sums] * len(rows.pixels), device)
    join_cols = cols.joiner([lines.reshape(C * H, cols.length, N)] * len(cols.pixels), device)
    total = sums.reshape(-1)
    elements: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for kh, (row_plane, row) in enumerate(rows.elements):
        for kw, (col_plane, col) in enumerate(cols.elements):
            start = (row * cols.length + col) * N
            elements.setdefault((col_plane, row_plane), []).append((kh * len(cols.elements) + kw, start))

    def sum_up(col_plane: int, row_plane: int) -> None:
        for i, (offset, start) in enumerate(elements[col_plane, row_plane]):
            end = total.size - start
            xp.equal(index[:end], index.dtype.type(offset), out=chosen[:end])
            part[:end] = chosen[:end]
            if i == 0:
                total[:start] = 0
                xp.multiply(gradients[:end], part[:end], out=total[start:])
            else:
                part[:end] *= gradients[:end]
                total[start:] += part[:end]

    def scatter(dy: Array, argmax: Array, dx: Array) -> None:
        spread_dy[positions] = dy
        spread_argmax[positions] = argmax
        for col_plane in range(len(cols.pixels)):
            for row_plane in range(len(rows.pixels)):
                sum_up(col_plane, row_plane)
                join_rows(row_plane, lines)
            join_cols(col_plane, dx.reshape(C * H, W, N))

    return scatter
