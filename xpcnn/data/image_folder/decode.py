"""Decoding pictures to arrays of one shape, which the pictures themselves decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, one_line
from ..formats.images import pixels_of, read_image, scaled_and_cropped
from ..formats.pictures import read_picture

USUAL = 64  # pixels of a side, if pictures are of different sizes, or larger


@dataclass(frozen=True)
class Plan:
    """The shape to decode to, and on which condition.

    Attributes:
        shape: `(C, H, W)`.
        drawing: see `read_image`.
        if_grey: C is 1 because every picture so far is grey.
        if_same_size: H and W are the size of every picture so far, at most `USUAL`.
        because: the paths of the pictures from which the shape follows.
    """

    shape: tuple[int, int, int]
    drawing: bool = False
    if_grey: bool = False
    if_same_size: bool = False
    because: tuple[str, ...] = ()

    @classmethod
    def of_first(cls, picture: Any, path: str, size: int | None) -> Plan:
        """Return the plan of which the first picture, of mode RGB, meets the conditions.

        Args:
            picture: the first picture.
            path: its path.
            size: pixels of a side; None for the pictures' own size, or `USUAL`.
        """
        height, width = (picture.height, picture.width) if size is None else (size, size)
        plan = cls((1, height, width), if_grey=True, if_same_size=size is None, because=(path,))
        return plan.widened(picture, path)

    def fits(self, picture: Any) -> bool:
        """Return whether a picture of mode RGB meets the conditions."""
        return not (self._has_other_size(picture) or self._has_colours(picture))

    def widened(self, picture: Any, path: str) -> Plan:
        """Return the plan whose conditions a picture of mode RGB meets as well."""
        plan = self if self.fits(picture) else replace(self, because=(*self.because, path))
        if self._has_colours(picture):
            plan = replace(plan, shape=(3, *plan.shape[1:]), if_grey=False)
        if self._has_other_size(picture):
            plan = replace(plan, shape=(plan.shape[0], USUAL, USUAL), if_same_size=False)
        return plan

    def _has_other_size(self, picture: Any) -> bool:
        _, height, width = self.shape
        return self.if_same_size and (picture.size != (width, height) or max(picture.size) > USUAL)

    def _has_colours(self, picture: Any) -> bool:
        if not self.if_grey:
            return False
        red, green, blue = np.asarray(picture).transpose(2, 0, 1)
        return not ((red == green).all() and (red == blue).all())


@dataclass
class Batch:
    """Pictures that were decoded.

    Attributes:
        pixels: `(N, C, H, W)` uint8, of those without a fault.
        done: what was done to each of those, in words, if the plan has no conditions.
        faults: what is wrong with the others, by their place.
        misfit: the place of a picture that does not meet the plan's conditions; then the rest is of no use.
    """

    pixels: NDArray[np.uint8]
    done: list[list[str]] = field(default_factory=list)
    faults: dict[int, str] = field(default_factory=dict)
    misfit: int | None = None


def decode(paths: Sequence[str], plan: Plan) -> Batch:
    """Decode picture files.

    Args:
        paths: the files.
        plan: the shape, and its conditions.
    """
    batch = Batch(np.empty((len(paths), *plan.shape), np.uint8))
    count = 0
    for i, path in enumerate(paths):
        try:
            if plan.if_grey or plan.if_same_size:
                picture, _ = read_picture(path, 3)
                if not plan.fits(picture):
                    batch.misfit = i
                    break
                if plan.if_grey:
                    picture = picture.getchannel(0)
                batch.pixels[count] = pixels_of(scaled_and_cropped(picture, plan.shape[2], plan.shape[1]))
            else:
                batch.pixels[count], done = read_image(path, plan.shape, drawing=plan.drawing)
                batch.done.append(done)
            count += 1
        except DataError as error:
            batch.faults[i] = str(error).removeprefix(f"{one_line(path)}: ")
    batch.pixels = batch.pixels[:count]
    return batch
