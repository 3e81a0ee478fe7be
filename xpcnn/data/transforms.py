"""Data augmentation: random changes to training images that keep their labels true, computed on the host.

A transform is any callable `transform(images, generator) -> images` over `(N, C, H, W)`, uint8 or float. Those here
keep shape and data type, draw one change per image from the generator alone, and read zeros outside an image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Images = NDArray[Any]


class Transform(Protocol):
    """What the loader calls on each batch."""

    def __call__(self, images: Images, generator: np.random.Generator, /) -> Images:
        """Return the changed `(N, C, H, W)` images and leave the given ones as they are."""
        ...


@dataclass(frozen=True)
class Compose:
    """Apply the transforms one after the other.

    Args:
        transforms: the first is applied first; all draw from the same generator.
    """

    transforms: Sequence[Transform]

    def __call__(self, images: Images, generator: np.random.Generator) -> Images:
        for transform in self.transforms:
            images = transform(images, generator)
        return images


@dataclass(frozen=True)
class RandomHorizontalFlip:
    """Mirror each image left to right at random.

    Args:
        p: the probability that an image is mirrored.

    Raises:
        ValueError: if `p` is not a probability.
    """

    p: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise ValueError(f"RandomHorizontalFlip: expected p from 0 to 1, got {self.p}")

    def __call__(self, images: Images, generator: np.random.Generator) -> Images:
        flipped = generator.random(len(images)) < self.p
        images = images.copy()
        images[flipped] = images[flipped, ..., ::-1]
        return images


@dataclass(frozen=True)
class RandomShift:
    """Shift each image by whole pixels, vertically and horizontally.

    The same as padding by `pixels` and cropping a random window of the old size (PyTorch's `RandomCrop` with padding).

    Args:
        pixels: both shifts are drawn uniformly from `-pixels` to `pixels`.

    Raises:
        ValueError: if `pixels` is negative.
    """

    pixels: int

    def __post_init__(self) -> None:
        if self.pixels < 0:
            raise ValueError(f"RandomShift: expected pixels of 0 or more, got {self.pixels}")

    def __call__(self, images: Images, generator: np.random.Generator) -> Images:
        margin = (self.pixels, self.pixels)
        padded = np.pad(images, ((0, 0), (0, 0), margin, margin))
        windows = sliding_window_view(padded, images.shape[2:], axis=(2, 3))  # (N, C, shifts, shifts, H, W), a view
        top, left = generator.integers(0, 2 * self.pixels + 1, (2, len(images)))
        shifted: Images = windows[np.arange(len(images)), :, top, left]
        return shifted


@dataclass(frozen=True)
class RandomAffine:
    """Rotate, scale, shear and translate each image about its centre, with bilinear interpolation.

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

    def __post_init__(self) -> None:
        if not self.degrees >= 0:
            raise ValueError(f"RandomAffine: expected degrees of 0 or more, got {self.degrees}")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"RandomAffine: expected scale (low, high) with 0 < low <= high, got {self.scale}")
        if not 0 <= self.shear < 90:
            raise ValueError(f"RandomAffine: expected shear from 0 to below 90 degrees, got {self.shear}")
        if not all(0 <= part <= 1 for part in self.translate):
            raise ValueError(f"RandomAffine: expected translate (right, down) from 0 to 1, got {self.translate}")

    def __call__(self, images: Images, generator: np.random.Generator) -> Images:
        H, W = images.shape[2:]
        angle, shear, right, down = generator.uniform(-1, 1, (4, len(images), 1, 1))
        angle, slope = np.radians(angle * self.degrees), np.tan(np.radians(shear * self.shear))
        factor = generator.uniform(*self.scale, (len(images), 1, 1))
        # Where does each output pixel come from? Undo the translation, the rotation and scale, then the shear.
        y = np.arange(H)[:, None] - (H - 1) / 2 - down * self.translate[1] * H
        x = np.arange(W) - (W - 1) / 2 - right * self.translate[0] * W
        cos, sin = np.cos(angle) / factor, np.sin(angle) / factor
        source_y = cos * y - sin * x
        source_x = cos * x + sin * y - slope * source_y
        return _bilinear(images, source_y + (H - 1) / 2, source_x + (W - 1) / 2)


def _bilinear(images: Images, y: NDArray[np.float64], x: NDArray[np.float64]) -> Images:
    """Read images `(N, C, H, W)` at real coordinates `(N, H, W)`, zero outside."""
    N, C, H, W = images.shape
    # A border of zeros, one before and two after, stands for everything outside once coordinates are clipped to it.
    padded = np.pad(images, ((0, 0), (0, 0), (1, 2), (1, 2))).reshape(N, C, -1)
    y, x = np.clip(y + 1, 0, H + 1), np.clip(x + 1, 0, W + 1)
    row, column = y.astype(np.intp), x.astype(np.intp)
    kind = np.float32 if images.dtype == np.uint8 else images.dtype
    down, right = ((c - f).astype(kind)[:, None] for c, f in ((y, row), (x, column)))  # (N, 1, H, W), from 0 to 1
    corner = (row * (W + 3) + column).reshape(N, 1, -1)
    offset = np.arange(N * C).reshape(N, C, 1) * padded.shape[2] + corner  # (N, C, H·W) into the flat padded images

    def neighbour(step: int) -> Images:
        values: Images = padded.reshape(-1).take(offset + step).reshape(N, C, H, W).astype(kind)
        return values

    def between(first: Images, second: Images, part: Images) -> Images:
        mixed: Images = first + part * (second - first)
        return mixed

    above = between(neighbour(0), neighbour(1), right)
    below = between(neighbour(W + 3), neighbour(W + 4), right)
    blended = between(above, below, down)
    return blended if images.dtype == kind else np.rint(blended).astype(np.uint8)
