"""Dilated convolution as one without dilation, on images taken apart: every second row and column, or every third.

With stride 1 and dilation d, an output depends only on pixels whose distance to it is a multiple of d in rows and
columns. So the d² smaller images of such pixels are convolved on their own, as a larger batch, by the algorithms for
windows without dilation. Where none of those is faster than im2col, this does not pay.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from typing import Any

from ..backend import ELEMENT_WORK, Array, Device, Shape, blocks
from .windows import Pair, Window, reach


def small_window(window: Window, size: Pair) -> Window:
    """Return the window that slides over the smaller images of an image of `size (H, W)`; see `split`."""
    top, bottom, left, right = window.padding
    (DH, DW), (H, W) = window.dilation, size
    below = ceil((H + top + bottom) / DH) - ceil((H + top) / DH)
    beside = ceil((W + left + right) / DW) - ceil((W + left) / DW)
    return Window(window.kernel, (1, 1), (1, 1), (top // DH, below, left // DW, beside))


def small_size(window: Window, size: Pair) -> Pair:
    """Return the height and width of the smaller images of an image of `size (H, W)`."""
    (DH, DW), (top, _, left, _) = window.dilation, window.padding
    return ceil((size[0] + top % DH) / DH), ceil((size[1] + left % DW) / DW)


def split(x: Array, window: Window, device: Device) -> Array:
    """Return the smaller images `(C, H', W', d²·N)` of `x (C, H, W, N)`.

    What the padding has beyond multiples of the dilation is padded here, the rest is left to `small_window`.

    Args:
        window: of the dilated convolution.
    """
    C, H, W, N = x.shape
    images = device.empty((C, *small_size(window, (H, W)), *window.dilation, N), x.dtype)

    def copy(channels: slice) -> None:
        if images.size > x.size:
            images[channels] = 0
        for inside, pixels in _places(images.shape, window, (H, W)):
            images[(channels, *inside)] = x[(channels, *pixels)]

    device.map(copy, blocks(C, device.parts(2 * images.size * ELEMENT_WORK)))
    return images.reshape(*images.shape[:3], -1)


def join(images: Array, window: Window, size: Pair, device: Device) -> Array:
    """Return the image `(C, H, W, N)` of a `size (H, W)` whose smaller images these are: `split`, reversed."""
    C, DH, DW = len(images), *window.dilation
    images = images.reshape(*images.shape[:3], DH, DW, -1)
    x = device.empty((C, *size, images.shape[-1]), images.dtype)

    def copy(channels: slice) -> None:
        for inside, pixels in _places(images.shape, window, size):
            x[(channels, *pixels)] = images[(channels, *inside)]

    device.map(copy, blocks(C, device.parts(2 * x.size * ELEMENT_WORK)))
    return x


def _places(shape: Shape, window: Window, size: Pair) -> Iterator[tuple[Any, tuple[slice, slice]]]:
    """Yield for each of the d² smaller images its part that lies in an image of `size`, and the pixels there."""
    _, height, width, DH, DW, _ = shape
    top, _, left, _ = window.padding
    for dh in range(DH):
        rows, image_rows = reach(slice(0, height), DH, dh - top % DH, size[0])
        for dw in range(DW):
            cols, image_cols = reach(slice(0, width), DW, dw - left % DW, size[1])
            yield (rows, cols, dh, dw), (image_rows, image_cols)
