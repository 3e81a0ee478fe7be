"""Arrays as PNG pictures inside the page, written without Pillow."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

import numpy as np

from ..backend import HostArray
from .markup import Html, element

_LARGEST = 128  # pixels along the longer side; larger images are reduced
_SMOOTH = 64  # from this size on, a browser scales smoothly
_KINDS = {1: 0, 3: 2, 4: 6}  # channels: PNG's number for grey, RGB and RGBA


def picture(image: HostArray, alt: str, **attributes: Any) -> Html:
    """Return an image as an element of the page.

    Args:
        image: `(C, H, W)`, uint8, or floats, which are scaled to their own range; in colour with three channels, else
            the first one in grey.
        alt: what it shows, for those who cannot see it.
        attributes: further ones of the element.
    """
    shown = reduced(displayable(image))
    height, width = shown.shape[:2]
    pixels = "pixels" if max(height, width) < _SMOOTH else None
    return embedded(shown, alt, class_=pixels, **attributes)


def embedded(pixels: HostArray, alt: str, **attributes: Any) -> Html:
    """Return an element with the pixels `(H, W)` or `(H, W, C)`, uint8, as they are."""
    source = "data:image/png;base64," + base64.b64encode(png(pixels)).decode()
    height, width = pixels.shape[:2]
    return element("img", src=source, alt=alt, width=width, height=height, **attributes)


def displayable(image: HostArray) -> HostArray:
    """Return an image `(C, H, W)` as uint8 pixels `(H, W, C)` with one or three channels."""
    image = image if len(image) == 3 else image[:1]
    if image.dtype != np.uint8:
        image = image.astype(np.float64)
        low, high = image.min(), image.max()
        image = np.rint((image - low) / ((high - low) or 1.0) * 255).astype(np.uint8)
    return image.transpose(1, 2, 0)


def reduced(pixels: HostArray, largest: int = _LARGEST) -> HostArray:
    """Return pixels `(H, W, C)` with each side divided by the same whole number, by the mean over squares."""
    height, width, channels = pixels.shape
    factor = -(-max(height, width) // largest)
    if factor == 1 or min(height, width) < factor:
        return pixels
    rows, columns = height // factor, width // factor
    squares = pixels[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor, channels)
    means: HostArray = np.rint(squares.mean(axis=(1, 3)))
    return means.astype(np.uint8)


def png(pixels: HostArray) -> bytes:
    """Return pixels `(H, W)` or `(H, W, C)`, uint8, with one, three or four channels, as a PNG file."""
    height, width = pixels.shape[:2]
    rows = np.ascontiguousarray(pixels).reshape(height, -1)
    filtered = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1)  # 0: each row is as it is
    header = struct.pack(">IIBBBBB", width, height, 8, _KINDS[rows.shape[1] // width], 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(filtered.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
