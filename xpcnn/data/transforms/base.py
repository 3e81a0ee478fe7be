"""What a transform is, and several of them one after the other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ...backend import Array


class Transform(Protocol):
    """What the loader calls on each batch.

    A transform that works on arrays of any device says so with an attribute `any_device = True`; the loader then calls
    it on the device where training runs. Without the attribute it is given NumPy arrays.
    """

    def __call__(self, images: Array, generator: np.random.Generator, /) -> Array:
        """Return the changed `(N, C, H, W)` images and leave the given ones as they are."""
        ...


def on_any_device(transform: Transform) -> bool:
    """Return whether a transform works on arrays of any device, as its attribute `any_device` says."""
    return bool(getattr(transform, "any_device", False))


@dataclass(frozen=True)
class Compose:
    """Apply the transforms one after the other; on any device if all of them do.

    Args:
        transforms: the first is applied first; all draw from the same generator.
    """

    transforms: Sequence[Transform]

    @property
    def any_device(self) -> bool:
        """Whether all transforms work on arrays of any device."""
        return all(map(on_any_device, self.transforms))

    def __call__(self, images: Array, generator: np.random.Generator) -> Array:
        for transform in self.transforms:
            images = transform(images, generator)
        return images
