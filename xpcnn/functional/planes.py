"""Pooling on planes: all windows at once by operations on contiguous memory, whatever the stride and the batch.

With stride `s`, an element of the window covers every s-th column, and NumPy starts a new inner loop for each of them,
N numbers long. Here the image is first copied to planes: one for each remainder of row and column divided by the
stride, padding included. A window's element, at all positions together, is then one contiguous run of a plane that
starts at an offset of its own, and what is computed for one element after the other has inner loops as long as the
plane. Runs pass over the ends of rows: what they compute there, beyond the last position of a row, is never used.

The letters are those of `windows.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from ..backend import Array, Device
from .windows import Pair, Window, reach


class _Axis(NamedTuple):
    """The planes along one axis of the image."""

    planes: int  # remainders that windows reach
    length: int  # of each plane
    positions: int
    elements: tuple[Pair, ...]  # for each element of the window: its plane, and where in it the first position is
    pixels: tuple[tuple[slice, slice], ...]  # for each plane: which part of it are pixels, and which of the image's

    @property
    def filled(self) -> bool:
        """Whether there are only pixels in the planes, no padding."""
        return all(part == slice(0, self.length) for part, _ in self.pixels)


class Planes(NamedTuple):
    """Where the pixels of an image are in its planes; made by `make_planes`."""

    rows: _Axis
    cols: _Axis

    def split(self, x: Array, padding: float, device: Device) -> Array:
        """Return the planes of `x (C, H, W, N)`, as scratch memory `(column planes, row planes, C, rows, columns, N)`.

        Args:
            padding: the value of the pixels around the image.
        """
        C, H, W, N = x.shape
        if self.rows.pixels == ((slice(0, H), slice(0, H, 1)),) and self.cols.pixels == ((slice(0, W), slice(0, W, 1)),):
            return x[None, None]
        shape = (self.cols.planes, self.rows.planes, C, self.rows.length, self.cols.length, N)
        planes = device.scratch(shape, x.dtype, "planes")
        if not (self.rows.filled and self.cols.filled):
            planes[...] = padding
        for j, (cols, image_cols) in enumerate(self.cols.pixels):
            for i, (rows, image_rows) in enumerate(self.rows.pixels):
                device.copy_runs(planes[j, i, :, rows, cols], x[:, image_rows, image_cols])
        return planes

    def join(self, plane: Array, row_plane: int, col_plane: int, x: Array, device: Device) -> None:
        """Write the pixels of a plane `(C, rows, columns, N)` to their places in `x (C, H, W, N)`."""
        rows, image_rows = self.rows.pixels[row_plane]
        cols, image_cols = self.cols.pixels[col_plane]
        device.copy_runs(x[:, image_rows, image_cols], plane[:, rows, cols])

    def covers(self, H: int, W: int) -> bool:
        """Whether each pixel of the image is in a plane."""
        axes = ((self.rows, H), (self.cols, W))
        return all(sum(len(range(size)[image]) for _, image in axis.pixels) == size for axis, size in axes)

    def spread(self, values: Array, device: Device, slot: str) -> Array:
        """Return values at the positions, `(C, OH, OW, N)`, in the shape of a plane, with zeros beyond the positions."""
        C, OH, OW, N = values.shape
        if (OH, OW) == (self.rows.length, self.cols.length):
            return values
        plane = device.scratch((C, self.rows.length, self.cols.length, N), values.dtype, slot)
        plane[...] = 0
        plane[:, :OH, :OW] = values
        return plane

    def runs(self, planes: Array, axis: int) -> list[Array]:
        """Return the run of each element of the window along one axis: all positions of that element.

        Args:
            planes: `(planes along the axis, ...)`, each contiguous.
            axis: 0 for the rows of the window, 1 for its columns.
        """
        along = (self.rows, self.cols)[axis]
        step = planes.shape[-1] * (1 if axis else self.cols.length)
        flat = planes.reshape(along.planes, -1)
        length = flat.shape[1] - (along.length - along.positions) * step
        return [flat[plane, first * step : first * step + length] for plane, first in along.elements]

    def reduce(self, function: Callable[..., Any], x: Array, padding: float, y: Array, device: Device) -> None:
        """Write to `y (C, OH, OW, N)` the values of each window of `x (C, H, W, N)` combined by a function of two.

        Args:
            function: such as `add`; called with `out`.
            padding: the value of the pixels around the image.
        """
        planes = self.split(x, padding, device)
        rows = device.scratch(planes.shape[1:], x.dtype, "rows")
        _fold(function, self.runs(planes, 1), rows)
        whole = y.shape[1:3] == rows.shape[2:4]
        plane = y if whole else device.scratch(rows.shape[1:], x.dtype, "positions")
        _fold(function, self.runs(rows, 0), plane)
        if not whole:
            y[...] = plane[:, : y.shape[1], : y.shape[2]]


@lru_cache(maxsize=1024)
def make_planes(window: Window, H: int, W: int) -> Planes:
    """Return the planes of `H` by `W` images for a window."""
    axes = []
    for axis, (size, positions) in enumerate(zip((H, W), window.output_size(H, W), strict=True)):
        stride, dilation, before = window.stride[axis], window.dilation[axis], window.padding[2 * axis]
        starts = [element * dilation for element in range(window.kernel[axis])]
        remainders = sorted({start % stride for start in starts})
        length = positions + starts[-1] // stride
        pixels = tuple(reach(slice(0, length), stride, remainder - before, size) for remainder in remainders)
        elements = tuple((remainders.index(start % stride), start // stride) for start in starts)
        axes.append(_Axis(len(remainders), length, positions, elements, pixels))
    return Planes(*axes)


def channel_pieces(channels: slice, x: Array, device: Device) -> Iterator[slice]:
    """Yield pieces of a slice of channels whose planes stay in cache.

    Args:
        x: the image, `(C, H, W, N)`.
    """
    channel_bytes = x[0].nbytes if len(x) else 1
    count = max(1, device.tile_bytes // 4 // max(1, channel_bytes))
    for start in range(channels.start, channels.stop, count):
        yield slice(start, min(start + count, channels.stop))


def _fold(function: Callable[..., Any], runs: Sequence[Array], out: Array) -> None:
    """Combine runs by a function of two, from left to right; what is left of `out` becomes 0."""
    first, *others = runs
    out = out.reshape(-1)
    out[len(first) :] = 0
    out = out[: len(first)]
    if not others:
        out[...] = first
    for other in others:
        function(first, other, out=out)
        first = out
