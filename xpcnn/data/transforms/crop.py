"""Transforms that move or cover pixels and leave their values as they are: flip, shift, cutout."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from ...backend import Array, device_of
from ...functional import pad_reflect
from ...random import index_bits, stream
from .base import Part, part_of


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
    any_part: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise ValueError(f"RandomHorizontalFlip: expected p from 0 to 1, got {self.p}")

    def __call__(self, images: Array, generator: np.random.Generator, part: Part | None = None) -> Array:
        rows, total = part_of(images, part)
        flipped = device_of(images).asarray(np.flatnonzero(generator.random(total)[rows] < self.p))
        images = images.copy()
        images[flipped] = images[flipped][..., ::-1]
        return images


@dataclass(frozen=True)
class AlternatingFlip:
    """Mirror each image left to right in every other epoch, half of them in the even and half in the odd ones.

    Two epochs in a row then show every image from both sides, where independent draws would show half of them twice
    from the same (Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", arXiv 2404.00498). Which epochs are
    an image's is a function of its place in the data set and of the loader's seed.

    It is made for use in a `Loader`, which names the epoch and the images by `at`.
    """

    any_device: ClassVar[bool] = True
    any_part: ClassVar[bool] = True

    def __call__(self, images: Array, generator: np.random.Generator, part: Part | None = None) -> Array:
        raise TypeError("AlternatingFlip depends on the epoch: use it in a Loader, or what its method `at` returns")

    def at(self, epoch: int, samples: Array, seed: int) -> "_Flip":
        """Return the transform of a batch; see `Transform`."""
        key = stream(seed, "alternating flip").integers(0, 1 << 32, 2)
        bits = index_bits(samples, (int(key[0]), int(key[1])))
        return _Flip(((bits & bits.dtype.type(1)) + bits.dtype.type(epoch & 1)) == 1)


@dataclass(frozen=True)
class _Flip:
    """Mirror the chosen images of a batch: `(N,)` of bool, on the device of the images."""

    chosen: Array
    any_device: ClassVar[bool] = True
    any_part: ClassVar[bool] = True

    def __call__(self, images: Array, generator: np.random.Generator, part: Part | None = None) -> Array:
        rows, _ = part_of(images, part)
        xp = device_of(images).xp
        return xp.where(self.chosen[rows, None, None, None], images[..., ::-1], images)


@dataclass(frozen=True)
class RandomShift:
    """Shift each image by whole pixels, vertically and horizontally.

    The same as padding by `pixels` and cropping a random window of the old size (PyTorch's `RandomCrop` with padding).

    Args:
        pixels: both shifts are drawn uniformly from `-pixels` to `pixels`.
        padding_mode: what is seen of the outside: `"constant"` for zeros, or `"reflect"` for the image mirrored at its
            outermost pixels.

    Raises:
        ValueError: if `pixels` is negative, the mode is neither, or, in a call with `"reflect"`, an image has no more
            than `pixels` rows or columns.
    """

    pixels: int
    padding_mode: Literal["constant", "reflect"] = "constant"
    any_device: ClassVar[bool] = True
    any_part: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.pixels < 0:
            raise ValueError(f"RandomShift: expected pixels of 0 or more, got {self.pixels}")
        if self.padding_mode not in ("constant", "reflect"):
            expected = 'expected padding_mode "constant" or "reflect"'
            raise ValueError(f"RandomShift: {expected}, got {self.padding_mode!r}")

    def __call__(self, images: Array, generator: np.random.Generator, part: Part | None = None) -> Array:
        N, C, H, W = images.shape
        rows, total = part_of(images, part)
        top, left = generator.integers(0, 2 * self.pixels + 1, (2, total))[:, rows]
        device, margin = device_of(images), self.pixels
        xp = device.xp
        height, width = H + 2 * margin, W + 2 * margin
        if self.padding_mode == "reflect":
            padded = pad_reflect(images, margin)
        else:
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
    any_part: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"Cutout: expected size of 1 or more, got {self.size}")
        if isinstance(self.fill, str) and self.fill != "mean":
            raise ValueError(f'Cutout: expected fill to be a number or "mean", got {self.fill!r}')

    def __call__(self, images: Array, generator: np.random.Generator, part: Part | None = None) -> Array:
        _, _, H, W = images.shape
        device = device_of(images)
        xp = device.xp
        covered, total = part_of(images, part)
        start = generator.integers(0, [[H], [W]], (2, total))[:, covered] - self.size // 2
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
