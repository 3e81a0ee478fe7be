"""Pictures of any size in the shape that a model was trained on; needs Pillow, from the `viz` extra."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...extras import needed_for
from .pictures import read_picture


def read_image(
    path: str | os.PathLike[str], shape: tuple[int, int, int], *, drawing: bool
) -> tuple[NDArray[np.uint8], list[str]]:
    """Read a picture file as an image of the given shape.

    Args:
        path: the file; see `read_picture` for the formats and how pixels become grey or RGB.
        shape: `(C, H, W)` to produce, with one channel (grey) or three (RGB).
        drawing: the data are light figures on a dark background, as MNIST's: a picture on a light background is
            inverted, and one of another size has its figure cut out, scaled to 5/7 of the image and centred on its
            centre of mass, as MNIST's makers did.

    Returns:
        The image, `(C, H, W)` uint8, and what was done to it, in words.

    Raises:
        DataError: if the file is absent, damaged, no picture, or one that `read_picture` refuses.
        ImportError: if Pillow is not installed.
    """
    with needed_for("reading pictures"):
        from PIL import Image

    channels, height, width = shape
    picture, done = read_picture(path, channels)
    if drawing:
        pixels = np.asarray(picture)
        border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        if np.median(border) > 127:
            picture = Image.fromarray(255 - pixels)
            done.append("inverted, as its ground is light")
    if picture.size != (width, height):
        if drawing:
            picture = _centred_figure(picture, width, height)
            done.append(f"figure cut out, scaled and centred in {width}×{height}")
        else:
            picture = scaled_and_cropped(picture, width, height)
            done.append(f"scaled and cropped to {width}×{height}")
    return pixels_of(picture), done


def scaled_and_cropped(picture: Any, width: int, height: int) -> Any:
    """Return the largest part in the middle of a picture that has the proportions asked for, in that size."""
    from PIL import Image

    if picture.size == (width, height):
        return picture
    # The box is cut out while scaling: what lies beside it may be a million times as large.
    scale = max(width / picture.width, height / picture.height)
    left = max(0.0, (picture.width - width / scale) / 2)
    top = max(0.0, (picture.height - height / scale) / 2)
    box = left, top, picture.width - left, picture.height - top
    return picture.resize((width, height), Image.Resampling.LANCZOS, box)


def pixels_of(picture: Any) -> NDArray[np.uint8]:
    """Return the pixels `(C, H, W)` of a picture of mode L or RGB."""
    pixels = np.asarray(picture)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _centred_figure(picture: Any, width: int, height: int) -> Any:
    from PIL import Image

    ink = np.asarray(picture) > 64  # well above the noise of paper and compression
    if not ink.any():
        return picture.resize((width, height), Image.Resampling.LANCZOS)
    rows, cols = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    picture = picture.crop((cols[0], rows[0], cols[-1] + 1, rows[-1] + 1))
    scale = min(width * 5 / 7 / picture.width, height * 5 / 7 / picture.height)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    picture = picture.resize(size, Image.Resampling.LANCZOS)
    weights = np.asarray(picture, np.float64)
    mass = weights.sum()
    if mass == 0:  # a few specks far apart, lost in scaling
        return Image.new("L", (width, height))
    # MNIST's centre of mass lies in the middle of the pixel right and below of the image's midpoint.
    left = round(width / 2 + 0.5 - (weights.sum(axis=0) @ (np.arange(size[0]) + 0.5)) / mass)
    top = round(height / 2 + 0.5 - (weights.sum(axis=1) @ (np.arange(size[1]) + 0.5)) / mass)
    canvas = Image.new("L", (width, height))
    canvas.paste(picture, (min(max(left, 0), width - size[0]), min(max(top, 0), height - size[1])))
    return canvas
