"""The mean and standard deviation of a data set's channels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .rows import Rows

_BLOCK = 1 << 24  # bytes of images that are read together


class Statistics:
    """Mean and standard deviation of each channel: as given, or computed from the images when they are needed."""

    def __init__(
        self,
        images: NDArray[Any] | Rows | None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        self._images, self._given = images, (mean, std)

    @property
    def mean(self) -> tuple[float, ...]:
        given, _ = self._given
        return self._computed[0] if given is None else tuple(map(float, given))

    @property
    def std(self) -> tuple[float, ...]:
        _, given = self._given
        return self._computed[1] if given is None else tuple(map(float, given))

    @cached_property
    def _computed(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        images, self._images = self._images, None
        assert images is not None
        _, C, H, W = images.shape
        count = max(1, len(images) * H * W)
        if images.dtype == np.uint8:  # in exact integers: the same on every machine
            sums, squares = [0] * C, [0] * C
            for _, block in blocks(images):
                rows = block.reshape(len(block), C, H * W)
                doubled = np.multiply(rows, rows, dtype=np.uint16)
                for total, values in ((sums, rows), (squares, doubled)):
                    for c, value in enumerate(values.sum(axis=(0, 2), dtype=np.uint64).tolist()):
                        total[c] += value
            mean = [value / (255 * count) for value in sums]
            variance = [(count * q - s * s) / (255 * count) ** 2 for s, q in zip(sums, squares, strict=True)]
        else:
            mean = sum((b.sum((0, 2, 3), np.float64) for _, b in blocks(images)), np.zeros(C)) / count
            centre = mean.reshape(C, 1, 1)
            variance = sum((((b - centre) ** 2).sum((0, 2, 3)) for _, b in blocks(images)), np.zeros(C)) / count
        # What is below float32's resolution of the mean is rounding.
        floor = [np.finfo(np.float32).eps * abs(value) for value in mean]
        std = [sqrt(value) for value in variance]
        return tuple(map(float, mean)), tuple(s if s > least else 1.0 for s, least in zip(std, floor, strict=True))


def blocks(images: NDArray[Any] | Rows) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield the images in blocks, each with the index of its first image."""
    size = max(1, _BLOCK // max(1, int(np.prod(images.shape[1:])) * images.dtype.itemsize))
    for first in range(0, len(images), size):
        yield first, images[first : first + size]
