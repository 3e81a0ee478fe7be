"""Pooling on planes: along one axis after the other, by operations on contiguous memory.

With stride `s`, an element of the window covers every s-th row or column, and NumPy starts a new inner loop for each.
Here the pixels are first copied to planes, one for each remainder of their number divided by the stride. An element of
the window, at all positions together, is then one contiguous run of a plane that begins at a place of its own, and the
inner loops are as long as the plane. What a run computes between the last position of one line and the first of the
next is never used.

An axis is the middle one of arrays of three axes: `(C·H, W, N)` for columns, `(C, H, W·N)` for rows. Columns come
first: the image is then read in the order of memory, and the rows are copied when they are in cache.

The functions here prepare the work on a few channels and return what does it: scratch memory, its padding and its views
are made once for all pieces of an image, which are small enough to stay in cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import ceil
from typing import Any, NamedTuple

from ..backend import ELEMENT_WORK, Array, Device, Shape
from .windows import Pair, Window, reach


class Axis(NamedTuple):
    """The planes along one axis; made by `make_axes`."""

    size: int  # pixels
    positions: int  # of the window
    length: int  # of each plane, at least the number of positions
    pixels: tuple[tuple[slice, slice], ...]  # for each plane: the part of it that are pixels, and which of the image's
    elements: tuple[Pair, ...]  # for each element of the window: its plane, and its place there at the first position

    def splitter(
        self, A: int, B: int, dtype: Any, padding: float, device: Device, slot: str
    ) -> tuple[Array, Callable[[Array], None]]:
        """Return planes `(planes, A, length, B)`, and a function that fills them from `x (A, size, B)`.

        Args:
            padding: the value of the pixels around the image.
            slot: of the scratch memory.
        """
        planes = device.scratch((len(self.pixels), A, self.length, B), dtype, slot)
        targets = []
        for number, (part, image) in enumerate(self.pixels):
            plane = planes[number]
            plane[:, : part.start] = padding
            plane[:, part.stop :] = padding
            targets.append((device.as_runs(plane)[:, part], image))

        def split(x: Array) -> None:
            x = device.as_runs(x)
            for target, image in targets:
                target[...] = x[:, image]

        return planes, split

    def runs(self, planes: Array) -> list[Array]:
        """Return the run of each element of the window, all of the same length."""
        B = planes.shape[-1]
        flat = planes.reshape(len(planes), -1)
        length = flat.shape[1] - (self.length - self.positions) * B
        return [flat[plane, first * B : first * B + length] for plane, first in self.elements]

    def joiner(self, planes: Sequence[Array], device: Device) -> Callable[[int, Array], None]:
        """Return a function that writes the pixels of a plane `(A, length, B)`, given by number, to `x (A, size, B)`.

        Before it writes those of the first plane, it clears `x` if some pixels are in no plane.
        """
        complete = sum(part.stop - part.start for part, _ in self.pixels) == self.size
        sources = [device.as_runs(plane)[:, part] for plane, (part, _) in zip(planes, self.pixels, strict=True)]

        def join(number: int, x: Array) -> None:
            if number == 0 and not complete:
                x[...] = 0
            device.as_runs(x)[:, self.pixels[number][1]] = sources[number]

        return join

    def adder(self, values: Array, device: Device, slot: str) -> Callable[[Array], None]:
        """Return a function that writes to `x (A, size, B)` the sum of the values at the positions that cover a pixel.

        Args:
            values: `(A, length, B)`, zero after the last position.
            slot: of the scratch memory.
        """
        B = values.shape[-1]
        flat = values.reshape(-1)
        sums = device.scratch(values.shape, values.dtype, slot)
        total = sums.reshape(-1)
        starts: list[list[int]] = [[] for _ in self.pixels]
        for number, first in self.elements:
            starts[number].append(first * B)
        join = self.joiner([values if start == [0] else sums for start in starts], device)

        def add(x: Array) -> None:
            for number, (first, *others) in enumerate(starts):
                if first or others:
                    total[:first] = 0
                    total[first:] = flat[: flat.size - first]
                for start in others:
                    total[start:] += flat[: flat.size - start]
                join(number, x)

        return add


@lru_cache(maxsize=1024)
def overlapping(window: Window) -> bool:
    """Return whether a pixel may be in several windows."""
    spans = ((kernel - 1) * step for kernel, step in zip(window.kernel, window.dilation, strict=True))
    return any(span >= stride for span, stride in zip(spans, window.stride, strict=True))


def uses_planes(window: Window, x: Array, device: Device) -> bool:
    """Return whether the device pools `x (C, H, W, N)` on planes."""
    return device.pools_on_planes(x.shape[-1], x.size, overlapping=overlapping(window))


def pooling_work(window: Window, pixels: int, positions: int, *, on_planes: bool) -> int:
    """Return the work of pooling, see `Device.parts`; that on planes does not grow with the window.

    Args:
        pixels, positions: how many there are in all images and channels.
    """
    return 2 * ELEMENT_WORK * (pixels if on_planes else positions * window.kernel[0] * window.kernel[1])


@lru_cache(maxsize=1024)
def make_axes(window: Window, H: int, W: int) -> tuple[Axis, Axis]:
    """Return the planes for the rows and for the columns of `H` by `W` images."""
    OH, OW = window.output_size(H, W)
    (KH, KW), (top, _, left, _) = window.kernel, window.padding
    return (
        _make_axis(H, OH, KH, window.stride[0], window.dilation[0], top),
        _make_axis(W, OW, KW, window.stride[1], window.dilation[1], left),
    )


def _make_axis(size: int, positions: int, kernel: int, stride: int, dilation: int, before: int) -> Axis:
    starts = [element * dilation for element in range(kernel)]
    remainders = sorted({start % stride for start in starts})
    length = positions + starts[-1] // stride
    pixels = tuple(reach(slice(0, length), stride, remainder - before, size) for remainder in remainders)
    elements = tuple((remainders.index(start % stride), start // stride) for start in starts)
    return Axis(size, positions, length, pixels, elements)


def window_reducer(
    function: Callable[..., Any], axes: tuple[Axis, Axis], shape: Shape, dtype: Any, padding: float, device: Device
) -> Callable[[Array], Array]:
    """Return a function of `x (C, H, W, N)` that combines the values of each window by a function of two.

    It returns `(C, OH, OW, N)` in scratch memory.

    Args:
        function: such as `add`; called with `out`.
        shape: of `x`.
        padding: the value of the pixels around the image.
    """
    rows, cols = axes
    C, H, W, N = shape
    col_planes, split_cols = cols.splitter(C * H, N, dtype, padding, device, "columns")
    row_planes, split_rows = rows.splitter(C, cols.length * N, dtype, padding, device, "rows")
    col_runs, row_runs = cols.runs(col_planes), rows.runs(row_planes)
    lines = device.scratch((C, H, cols.length * N), dtype, "lines")
    result = device.scratch((C, rows.length, cols.length, N), dtype, "result")
    lines_start, result_start = start_of(lines, len(col_runs[0])), start_of(result, len(row_runs[0]))
    positions = result[:, : rows.positions, : cols.positions]

    def reduce(x: Array) -> Array:
        split_cols(x.reshape(C * H, W, N))
        _fold(function, col_runs, lines_start)
        split_rows(lines)
        _fold(function, row_runs, result_start)
        return positions

    return reduce


def window_adder(
    axes: tuple[Axis, Axis], shape: Shape, dtype: Any, device: Device
) -> tuple[Array, Callable[[Array], None]]:
    """Return memory for values at the positions, and a function that writes to each pixel the sum of those covering it.

    Args:
        shape: `(C, H, W, N)`, of the argument of the function. The values are `(C, OH, OW, N)`.
    """
    rows, cols = axes
    C, H, W, N = shape
    values = device.scratch((C, rows.length, cols.length, N), dtype, "values")
    values[...] = 0
    lines = device.scratch((C, H, cols.length, N), dtype, "lines")
    add_rows = rows.adder(values.reshape(C, rows.length, -1), device, "rows")
    add_cols = cols.adder(lines.reshape(C * H, cols.length, N), device, "columns")

    def add(x: Array) -> None:
        add_rows(lines.reshape(C, H, -1))
        add_cols(x.reshape(C * H, W, N))

    return values[:, : rows.positions, : cols.positions], add


def piece_slices(channels: slice, x: Array, device: Device) -> list[tuple[Shape, list[slice]]]:
    """Cut a slice of channels to pieces whose planes stay in cache; return the pieces of one shape, then the last.

    Args:
        x: the image, `(C, H, W, N)`.
    """
    count = channels.stop - channels.start
    piece_bytes = device.tile_bytes // 2
    pieces = max(1, ceil(x.nbytes * count / max(1, len(x) * piece_bytes)))
    size = max(1, ceil(count / pieces))
    slices = [slice(start, min(start + size, channels.stop)) for start in range(channels.start, channels.stop, size)]
    whole = count // size
    groups = (size, slices[:whole]), (count % size, slices[whole:])
    return [((length, *x.shape[1:]), group) for length, group in groups if group]


def start_of(x: Array, length: int) -> Array:
    """Return the first numbers of an array, flat, and set the others to 0."""
    x = x.reshape(-1)
    x[length:] = 0
    return x[:length]


def _fold(function: Callable[..., Any], runs: Sequence[Array], out: Array) -> None:
    first, *others = runs
    if not others:
        out[...] = first
    for other in others:
        function(first, other, out=out)
        first = out
