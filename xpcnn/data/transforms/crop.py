"""Transforms that move or cover pixels and leave their values as they are: flip, shift, cutout."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from ...backend import Array, device_of


@dataclass(frozen=True)
class RandomHorizontalFlip:
    """Mirror each image left to right at random.

    Args:
        p: the probability that an image is mirrored.

    Raises:
        ValueError: if `p` is not a probability.
    """

    p: float = 0.5
    any_device: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise ValueError(f"RandomHorizontalFlip: expected p from 0 to 1, got {self.p}")

    def __call__(self, images: Array, generator: np.random.Generator) -> Array:
        flipped = np.flatnonzero(generator.random(len(images)) < self.p)
        rows = device_of(images).asarray(flipped)
        images = images.copy()
        images[rows] = images[rows][..., ::-1]
        return images


@dataclass(frozen=True)
class RandomShift:
    """Shift each image by whole pixels, vertically and horizontally; pixels from outside the image are 0.

    The same as padding by `pixels` and cropping a random window of the old size (PyTorch's `RandomCrop` with padding).

    Args:
        pixels: both shifts are drawn uniformly from `-pixels` to `pixels`.

    Raises:
        ValueError: if `pixels` is negative.
    """

    pixels: int
    any_device: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.pixels < 0:
            raise ValueError(f"RandomShift: expected pixels of 0 or more, got {self.pixels}")

    def __call__(self, images: Array, generator: np.random.Generator) -> Array:
        N, C, H, W = images.shape
        top, left = generator.integers(0, 2 * self.pixels + 1, (2, N))
        device, margin = device_of(images), self.pixels
        xp = device.xp
        height, width = H + 2 * margin, W + 2 * margin
        padded = xp.zeros((N, C, height, width), images.dtype)
        padded[:, :, margin : margin + H, margin : margin + W] = images
        # Every run of W pixels in memory; a row of a window is one of them, chosen by its first pixel: (N, C, H).
        runs = xp.lib.stride_tricks.as_strided(padded, (padded.size - W + 1, W), (padded.itemsize, padded.itemsize))
        planes = xp.arange(0, padded.size, height * width).reshape(N, C, 1)
        first = device.asarray((top * width + left)[:, None, None]) + xp.arange(0, H * width, width)
        return runs[planes + first]


@dataclass(frozen=True)
class Cutout:
    """Cover a square at a random place of each image (DeVries and Taylor 2017).

    The centre of the square is drawn uniformly from the pixels of the image, so that a part of it may lie outside.

    Args:
        size: the side of the square, in pixels.
        fill: the value of the covered pixels, or `"mean"` for the mean of each image and channel before it is covered,
            which is rounded for uint8 images.

    Raises:
        ValueError: if an option is outside its range, or, in a call with uint8 images, `fill` is no byte.
    """

    size: int
    fill: float | Literal["mean"] = 0
    any_device: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"Cutout: expected size of 1 or more, got {self.size}")
        if isinstance(self.fill, str) and self.fill != "mean":
            raise ValueError(f'Cutout: expected fill to be a number or "mean", got {self.fill!r}')

    def __call__(self, images: Array, generator: np.random.Generator) -> Array:
        N, _, H, W = images.shape
        device = device_of(images)
        xp = device.xp
        start = generator.integers(0, [[H], [W]], (2, N)) - self.size // 2
        first = device.asarray(start)[:, :, None, None, None]
        y, x = xp.arange(H)[:, None], xp.arange(W)
        rows, columns = (
            (first <= place) & (place < first + self.size) for first, place in ((first[0], y), (first[1], x))
        )
        return xp.where(rows & columns, self._filling(images), images)

    def _filling(self, images: Array) -> Array:
        """Return the value that covers the pixels: a scalar, or one per image and channel."""
        xp, area = device_of(images).xp, images.shape[2] * images.shape[3]
        if self.fill != "mean":
            if images.dtype == np.uint8 and self.fill not in range(256):
                raise ValueError(f"Cutout: expected fill to be a whole number from 0 to 255, got {self.fill}")
            return xp.full((), self.fill, images.dtype)
        if images.dtype.kind == "f":
            return images.mean(axis=(2, 3), keepdims=True)
        total = images.sum(axis=(2, 3), keepdims=True, dtype=xp.int64)
        return ((2 * total + area) // (2 * area)).astype(images.dtype)  # the sum of integers is exact
