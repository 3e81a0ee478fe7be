"""What a transform is, and several of them one after the other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from ...backend import Array


class Part(NamedTuple):
    """Which images of a batch a transform is given.

    Attributes:
        rows: the images' places in the batch.
        total: how many images the batch has.
    """

    rows: slice
    total: int


def part_of(images: Array, part: Part | None) -> Part:
    """Return the part that images are: the whole batch if it is None."""
    return Part(slice(None), len(images)) if part is None else part


class Transform(Protocol):
    """What the loader calls on each batch.

    A transform that works on arrays of any device says so with an attribute `any_device = True`; the loader then calls
    it on the device where training runs. Without the attribute it is given NumPy arrays.

    Where processes share a batch, a transform is given the whole batch on each of them, unless it has an attribute
    `any_part = True`. Then it is called with the images of one process, at least one, and a third argument, the `Part`
    that they are. It draws what it would draw for the whole batch, uses the part's rows of it, and keeps the images'
    shape.

    A transform that depends on the epoch, or on which samples of the data set the images are, has a method
    `at(epoch, samples, seed)`. The loader calls it for each batch, with the epoch's number from 0, the samples' indices
    `(N,)` on the loader's device, of the whole batch, and its own seed; it uses the transform that this returns.
    """

    def __call__(self, images: Array, generator: np.random.Generator, /) -> Array:
        """Return the changed `(N, C, H, W)` images and leave the given ones as they are."""
        ...


def on_any_device(transform: Transform) -> bool:
    """Return whether a transform works on arrays of any device, as its attribute `any_device` says."""
    return bool(getattr(transform, "any_device", False))


def on_any_part(transform: Transform) -> bool:
    """Return whether a transform can be given a part of a batch, as its attribute `any_part` says."""
    return bool(getattr(transform, "any_part", False))


def transform_at(transform: Transform, epoch: int, samples: Array, seed: int) -> Transform:
    """Return the transform of one batch: what its method `at` returns, if it has one, else itself."""
    at = getattr(transform, "at", None)
    return transform if at is None else at(epoch, samples, seed)


@dataclass(frozen=True)
class Compose:
    """Apply the transforms one after the other; on any device, or to any part of a batch, if all of them can.

    Args:
        transforms: the first is applied first; all draw from the same generator.
    """

    transforms: Sequence[Transform]

    @property
    def any_device(self) -> bool:
        """Whether all transforms work on arrays of any device."""
        return all(map(on_any_device, self.transforms))

    @property
    def any_part(self) -> bool:
        """Whether all transforms can be given a part of a batch."""
        return all(map(on_any_part, self.transforms))

    def at(self, epoch: int, samples: Array, seed: int) -> "Compose":
        """Return the transform of one batch, composed of those of all transforms; see `Transform`."""
        return Compose([transform_at(transform, epoch, samples, seed) for transform in self.transforms])

    def __call__(self, images: Array, generator: np.random.Generator, *part: Part) -> Array:
        for transform in self.transforms:
            images = transform(images, generator, *part)
        return images
