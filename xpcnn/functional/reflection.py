"""Padding by reflection."""

from __future__ import annotations

from ..backend import Array, device_of


def pad_reflect(x: Array, margin: int) -> Array:
    """Return images with a border in which they are mirrored at their outermost pixels: `d c b | a b c d | c b a`.

    Args:
        x: `(..., H, W)`, of any dtype.
        margin: width of the border in pixels, smaller than H and W.

    Returns:
        `(..., H + 2·margin, W + 2·margin)`; its memory has the order of the axes.

    Raises:
        ValueError: if the margin is negative, or not smaller than the image.
    """
    *others, H, W = x.shape
    if not 0 <= margin < min(H, W):
        raise ValueError(f"expected a margin from 0 to below the image's {H}×{W} pixels to reflect, got {margin}")
    padded = device_of(x).empty((*others, H + 2 * margin, W + 2 * margin), x.dtype)
    padded[..., margin : margin + H, margin : margin + W] = x
    columns = slice(margin, margin + W)
    # The rows beside the image, then whole columns, which fill the corners too.
    padded[..., :margin, columns] = padded[..., 2 * margin : margin : -1, columns]
    padded[..., margin + H :, columns] = padded[..., margin + H - 2 : H - 2 : -1, columns]
    padded[..., :margin] = padded[..., 2 * margin : margin : -1]
    padded[..., margin + W :] = padded[..., margin + W - 2 : W - 2 : -1]
    return padded
