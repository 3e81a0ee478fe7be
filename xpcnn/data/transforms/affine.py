"""Rotation, scale, shear and translation, with bilinear interpolation."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ...backend import Array, array_namespace, chain, device_of

_FAR = 2.0**21  # pixels


@dataclass(frozen=True)
class RandomAffine:
    """Rotate, scale, shear and translate each image about its centre, with bilinear interpolation.

    Pixels from outside the image are 0. For uint8 images the places that are read are rounded to 1/256 of a pixel, and
    the result is rounded once.

    Args:
        degrees: the angle of rotation is drawn uniformly from `-degrees` to `degrees`.
        scale: `(low, high)`, between which the scale factor is drawn uniformly.
        shear: the angle of shear, in degrees, is drawn uniformly from `-shear` to `shear`.
        translate: the largest shift horizontally and vertically, as fractions of the width and of the height.

    Raises:
        ValueError: if an option is outside its range.
    """

    degrees: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    shear: float = 0.0
    translate: tuple[float, float] = (0.0, 0.0)
    any_device: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.degrees >= 0:
            raise ValueError(f"RandomAffine: expected degrees of 0 or more, got {self.degrees}")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"RandomAffine: expected scale (low, high) with 0 < low <= high, got {self.scale}")
        if not 0 <= self.shear < 90:
            raise ValueError(f"RandomAffine: expected shear from 0 to below 90 degrees, got {self.shear}")
        if not all(0 <= part <= 1 for part in self.translate):
            raise ValueError(f"RandomAffine: expected translate (right, down) from 0 to 1, got {self.translate}")

    def __call__(self, images: Array, generator: np.random.Generator) -> Array:
        N, _, H, W = images.shape
        angle, shear, right, down = generator.uniform(-1, 1, (4, N, 1))
        angle, slope = np.radians(angle * self.degrees), np.tan(np.radians(shear * self.shear))
        factor = generator.uniform(*self.scale, (N, 1))
        # Where does each output pixel come from? Undo the translation, the rotation and scale, then the shear.
        y = np.arange(H) - (H - 1) / 2 - down * self.translate[1] * H  # (N, H)
        x = np.arange(W) - (W - 1) / 2 - right * self.translate[0] * W  # (N, W)
        cos, sin = np.cos(angle) / factor, np.sin(angle) / factor
        # Each coordinate is a sum of a part that depends on the row and one that depends on the column.
        source_y = cos * y + (H - 1) / 2, -sin * x
        source_x = (sin - slope * cos) * y + (W - 1) / 2, (cos + slope * sin) * x
        return _interpolate(images, (*source_y, *source_x))


def _interpolate(images: Array, parts: Sequence[NDArray[np.float64]]) -> Array:
    """Return what images `(N, C, H, W)` show at real coordinates, zero outside.

    Args:
        parts: `(N, H)` and `(N, W)`, whose sum over row and column is the vertical coordinate of each pixel's source,
            then those of the horizontal coordinate.
    """
    N, C, H, W = images.shape
    device = device_of(images)
    packed = images.dtype == np.uint8
    kind, bits = (np.int32, 8) if packed else (np.int64, 40)
    # Far outside is as good as infinitely far, and the sum of two parts does not overflow.
    fixed = np.rint(np.clip(np.concatenate(parts, axis=1), -_FAR, _FAR) * (1 << bits)).astype(kind)
    table, ends = device.asarray(fixed), (0, H, H + W, H + W + H, H + W + H + W)
    y_row, y_column, x_row, x_column = (table[:, first:last] for first, last in pairwise(ends))

    # A border of zeros, one pixel before and two after, is what coordinates outside are clipped to.
    padded = device.scratch((C, N, H + 3, W + 3), images.dtype, "padded")
    padded.fill(0)
    padded[:, :, 1 : H + 1, 1 : W + 1] = images.transpose(1, 0, 2, 3)
    padded = padded.reshape(C, -1)
    origin = device.xp.arange(W + 4, padded.shape[1], (H + 3) * (W + 3))[:, None, None]  # of each image therein
    corner = device.scratch((N, H, W), np.int64, "corner")
    down, right = (device.scratch((N, H, W), kind, name) for name in ("down", "right"))
    coordinates = y_row[:, :, None], y_column[:, None, :], x_row[:, :, None], x_column[:, None, :]
    numbers = kind(-1 << bits), kind(H << bits), kind(W << bits), kind(bits), kind((1 << bits) - 1), np.int64(W + 3)
    _locate(*coordinates, origin, *numbers, corner, down, right)

    length = padded.shape[1] - (W + 4)
    neighbours = [padded[:, first : first + length] for first in (0, 1, W + 3, W + 4)]
    result = device.empty((C, N, H, W), images.dtype)
    if packed:
        four = device.scratch((C, length), np.uint32, "four")
        _pack(four, *neighbours)
        spare = device.scratch(result.shape, np.uint32, "spare")
        _blend_packed(four.take(corner, axis=1), down.view(np.uint32), right.view(np.uint32), spare, result)
    else:
        fractions = (part.astype(images.dtype) * images.dtype.type(0.5**bits) for part in (down, right))
        _blend(result, *fractions, *(neighbour.take(corner, axis=1) for neighbour in neighbours))
    return result.transpose(1, 0, 2, 3)


@chain
def _locate(y_row: Array, y_column: Array, x_row: Array, x_column: Array, origin: Array, *others: Any) -> None:
    """Write the index of each source's upper left pixel to `corner`, and the fractions to `down` and `right`."""
    lowest, height, width, bits, mask, row_length, corner, down, right = others
    xp = array_namespace(y_row)
    for first, second, highest, place in ((y_row, y_column, height, down), (x_row, x_column, width, right)):
        xp.add(first, second, out=place)
        xp.maximum(place, lowest, out=place)
        xp.minimum(place, highest, out=place)
    xp.right_shift(down, bits, out=corner)
    corner *= row_length
    corner += right >> bits
    corner += origin
    down &= mask
    right &= mask


@chain
def _pack(four: Array, *neighbours: Array) -> None:
    """Write the four bytes of each 2×2 pixels to one number, so that one gather reads them all."""
    four[...] = neighbours[-1]
    for neighbour in neighbours[-2::-1]:
        four <<= array_namespace(four).uint32(8)
        four |= neighbour


@chain
def _blend_packed(four: Array, down: Array, right: Array, left: Array, result: Array) -> None:
    """Interpolate packed pixels; weights are of 256ths. The upper and lower pixels are computed in half a word each."""
    u = array_namespace(four).uint32
    array_namespace(four).bitwise_and(four, u(0x00FF00FF), out=left)
    four >>= u(8)
    four &= u(0x00FF00FF)
    four *= right
    left *= u(256) - right
    left += four  # at most 255·256 in each half
    array_namespace(four).right_shift(left, u(16), out=four)
    left &= u(0xFFFF)
    four *= down
    left *= u(256) - down
    left += four
    left += u(1 << 15)
    left >>= u(16)
    result[...] = left


@chain
def _blend(result: Array, down: Array, right: Array, *neighbours: Array) -> None:
    upper, lower = (first + right * (second - first) for first, second in (neighbours[:2], neighbours[2:]))
    result[...] = upper + down * (lower - upper)
