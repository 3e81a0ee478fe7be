"""Depthwise convolution of one small image: the elements of the window added up along the channels.

In the layout (H, W, C) the inner loops run over all channels of a pixel, and a pixel's neighbours are views. The
products are added up by one call of `einsum`, which does not store them. Copies to this layout and back take as long as
several elements of the window, so it pays for images with more channels than pixels, in the last layers of a network:
there the products of `by_rows.py` are tiny.
"""

from __future__ import annotations

from ..backend import Array, Device
from .windows import Limits, Window, finish, kept_array


def applies(x: Array, weight: Array, groups: int, window: Window, device: Device) -> bool:
    """Return whether this is the faster way to compute the forward pass of a convolution.

    Args:
        x: `(C, H, W, N)`.
        weight: `(O, C / groups, KH, KW)`.
    """
    C, H, W, N = x.shape
    one_each = N == 1 and len(weight) == groups == C
    return one_each and device.adds_products and window.stride[0] * window.stride[1] * C > H * W


def correlate(
    x: Array,
    weight: Array,
    bias: Array | None,
    window: Window,
    device: Device,
    limits: Limits | None = None,
    kept: dict[str, Array] | None = None,
) -> Array:
    """Return the correlation of `x (C, H, W, 1)` and `weight (C, 1, KH, KW)` plus bias, `(C, OH, OW, 1)`.

    Args:
        limits: what the output is clipped to, or None.
        kept: where the filters in the order of the pixels are kept between calls with the same weight, or None.
    """
    C, H, W, _ = x.shape
    OH, OW = window.output_size(H, W)
    (KH, KW), (sh, sw), (dh, dw), (top, bottom, left, right) = window
    # (KH, KW, C)
    filters = kept_array(kept, "depthwise", lambda: device.xp.ascontiguousarray(weight[:, 0].transpose(1, 2, 0)))
    pixels = device.scratch((top + H + bottom, left + W + right, C), x.dtype, "columns")
    pixels[...] = 0
    pixels[top : top + H, left : left + W] = x[..., 0].transpose(1, 2, 0)
    row, pixel, number = pixels.strides
    windows = device.strided(pixels, (OH, OW, KH, KW, C), (sh * row, sw * pixel, dh * row, dw * pixel, number))
    sums = device.scratch((OH, OW, C), x.dtype, "product")
    device.einsum("hwijc,ijc->hwc", windows, filters, out=sums)
    y = device.empty((C, OH, OW, 1), x.dtype)
    y[..., 0] = sums.transpose(2, 0, 1)
    finish(y.reshape(C, -1), None if bias is None else bias[:, None], limits, device)
    return y
