"""Pooling on planes: along one axis after the other, by operations on contiguous memory.

With stride `s`, an element of the window covers every s-th row or column, and NumPy starts a new inner loop for each.
Here the pixels are first copied to planes, one for each remainder of their number divided by the stride. An element of
the window, at all positions together, is then one contiguous run of a plane that begins at a place of its own, and the
inner loops are as long as the plane. What a run computes between the last position of one line and the first of the
next is never used.

An axis is the middle one of arrays of three axes: `(C·H, W, N)` for columns, `(C, H, W·N)` for rows. Columns come
first: the image is then read in the order of memory, and the rows are copied when they are in cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from ..backend import Array, Device
from .windows import Pair, Window, reach


class Axis(NamedTuple):
    """The planes along one axis; made by `make_axes`."""

    size: int  # pixels
    positions: int  # of the window
    length: int  # of each plane, at least the number of positions
    pixels: tuple[tuple[slice, slice], ...]  # for each plane: the part of it that are pixels, and which of the image's
    elements: tuple[Pair, ...]  # for each element of the window: its plane, and its place there at the first position

    def split(self, x: Array, padding: float, device: Device, slot: str = "planes") -> Array:
        """Return the planes of `x (A, size, B)`, `(planes, A, length, B)`, in scratch memory or a view of `x`.

        Args:
            padding: the value of the pixels around the image.
            slot: of the scratch memory. The planes of columns and of rows share one, which then stays in cache.
        """
        if self.length == self.size and self.pixels == ((slice(0, self.size), slice(0, self.size, 1)),):
            return x[None]
        A, _, B = x.shape
        planes = device.scratch((len(self.pixels), A, self.length, B), x.dtype, slot)
        for plane, (part, image) in zip(planes, self.pixels, strict=True):
            if part.start:
                plane[:, : part.start] = padding
            if part.stop < self.length:
                plane[:, part.stop :] = padding
            device.copy_runs(plane[:, part], x[:, image])
        return planes

    def runs(self, planes: Array) -> list[Array]:
        """Return the run of each element of the window, all of the same length."""
        B = planes.shape[-1]
        flat = planes.reshape(len(planes), -1)
        length = flat.shape[1] - (self.length - self.positions) * B
        return [flat[plane, first * B : first * B + length] for plane, first in self.elements]

    def spread(self, values: Array, device: Device, slot: str) -> Array:
        """Return values at the positions, `(A, positions, B)`, in the shape of a plane, with zeros after them."""
        if self.length == self.positions:
            return values
        A, _, B = values.shape
        plane = device.scratch((A, self.length, B), values.dtype, slot)
        plane[:, self.positions :] = 0
        plane[:, : self.positions] = values
        return plane

    def join(self, planes: Iterator[Array], x: Array, device: Device) -> None:
        """Write the pixels of planes `(A, length, B)`, one after the other, to `x (A, size, B)`, and zero elsewhere."""
        if sum(part.stop - part.start for part, _ in self.pixels) < self.size:
            x[...] = 0
        for plane, (part, image) in zip(planes, self.pixels, strict=True):
            device.copy_runs(x[:, image], plane[:, part])

    def add_back(self, values: Array, x: Array, device: Device, slot: str) -> None:
        """Write to `x (A, size, B)` for each pixel the sum of the values at the positions that cover it.

        Args:
            values: `(A, positions, B)`.
        """
        values = self.spread(values, device, f"{slot} values")
        flat = values.reshape(-1)

        def sums(number: int) -> Array:
            firsts = [first for plane, first in self.elements if plane == number]
            if firsts == [0]:
                return values
            plane = device.scratch(values.shape, values.dtype, f"{slot} sums")
            total = plane.reshape(-1)
            for i, first in enumerate(firsts):
                start = first * values.shape[-1]
                if i == 0:
                    total[:start] = 0
                    total[start:] = flat[: flat.size - start]
                else:
                    total[start:] += flat[: flat.size - start]
            return plane

        self.join(map(sums, range(len(self.pixels))), x, device)


@lru_cache(maxsize=1024)
def make_axes(window: Window, H: int, W: int) -> tuple[Axis, Axis]:
    """Return the planes for the rows and for the columns of `H` by `W` images."""
    rows, cols = (
        _make_axis(size, positions, *options)
        for size, positions, *options in zip(
            (H, W),
            window.output_size(H, W),
            window.kernel,
            window.stride,
            window.dilation,
            window.padding[::2],
            strict=True,
        )
    )
    return rows, cols


def _make_axis(size: int, positions: int, kernel: int, stride: int, dilation: int, before: int) -> Axis:
    starts = [element * dilation for element in range(kernel)]
    remainders = sorted({start % stride for start in starts})
    length = positions + starts[-1] // stride
    pixels = tuple(reach(slice(0, length), stride, remainder - before, size) for remainder in remainders)
    elements = tuple((remainders.index(start % stride), start // stride) for start in starts)
    return Axis(size, positions, length, pixels, elements)


def reduce_windows(
    function: Callable[..., Any], axes: tuple[Axis, Axis], x: Array, padding: float, y: Array, device: Device
) -> None:
    """Write to `y (C, OH, OW, N)` the values of each window of `x (C, H, W, N)` combined by a function of two.

    Args:
        function: such as `add`; called with `out`.
        padding: the value of the pixels around the image.
    """
    rows, cols = axes
    C, H, W, N = x.shape
    planes = cols.split(x.reshape(C * H, W, N), padding, device)
    lines = device.scratch((C, H, cols.length * N), x.dtype, "lines")
    _fold(function, cols.runs(planes), lines)
    planes = rows.split(lines, padding, device)
    result = device.scratch((C, rows.length, cols.length, N), x.dtype, "result")
    whole = y.shape == result.shape
    _fold(function, rows.runs(planes), y if whole else result)
    if not whole:
        y[...] = result[:, : rows.positions, : cols.positions]


def add_back(axes: tuple[Axis, Axis], values: Array, x: Array, device: Device) -> None:
    """Write to `x (C, H, W, N)` for each pixel the sum of `values (C, OH, OW, N)` at the windows that cover it."""
    rows, cols = axes
    C, H, W, N = x.shape
    lines = device.scratch((C, H, cols.positions, N), x.dtype, "lines")
    rows.add_back(values.reshape(C, rows.positions, -1), lines.reshape(C, H, -1), device, "rows")
    cols.add_back(lines.reshape(C * H, cols.positions, N), x.reshape(C * H, W, N), device, "columns")


def channel_pieces(channels: slice, x: Array, device: Device) -> Iterator[slice]:
    """Yield pieces of a slice of channels whose planes stay in cache.

    Args:
        x: the image, `(C, H, W, N)`.
    """
    count = max(1, device.tile_bytes * len(x) // max(1, x.nbytes))
    for start in range(channels.start, channels.stop, count):
        yield slice(start, min(start + count, channels.stop))


def _fold(function: Callable[..., Any], runs: Sequence[Array], out: Array) -> None:
    """Combine runs by a function of two, from left to right; what is left of `out` becomes 0."""
    first, *others = runs
    out = start_of(out, len(first))
    if not others:
        out[...] = first
    for other in others:
        function(first, other, out=out)
        first = out


def start_of(out: Array, length: int) -> Array:
    """Return the first numbers of an array, flat, and set the others to 0."""
    out = out.reshape(-1)
    if length < out.size:
        out[length:] = 0
    return out[:length]
