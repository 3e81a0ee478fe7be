"""Layer norm over the channels of each pixel, for inference: what a backward pass needs is not kept.

Each piece of the pixels is read once, and all the rest is done while it is in cache. See `standardize.py` for the
formulas.
"""

from __future__ import annotations

from math import ceil

from ..backend import ELEMENT_WORK, Array, batch_first, batch_last, blocks
from .batch_norm import check_parameters
from .checks import check_input
from .standardize import centre_and_multiply, deviation, mean_of, scale_and_shift


def layer_norm2d(x: Array, weight: Array | None = None, bias: Array | None = None, *, eps: float = 1e-6) -> Array:
    """Return the output of `layer_norm2d_forward`, whose arguments these are."""
    device = check_input("layer_norm2d", x, "(N, C, ...)", float16=False)
    if x.ndim < 2 or 0 in x.shape[1:]:
        raise ValueError(f"expected input (N, C, ...), got {x.shape}")
    check_parameters("layer_norm2d", x, x.shape[1:2], weight=weight, bias=bias)
    weight, bias = (None if array is None else array[:, None] for array in (weight, bias))
    x = batch_last(x)
    y = device.empty(x.shape, x.dtype)
    C, pixels, normalized = len(x), x.reshape(len(x), -1), y.reshape(len(x), -1)
    P = pixels.shape[1]
    parts = device.parts(4 * x.size * ELEMENT_WORK, at_most=P // device.long_row)
    pieces = blocks(P, max(1, parts, min(ceil(2 * x.nbytes / device.tile_bytes), P // device.long_row)))

    def normalize(part: slice) -> None:
        for piece in pieces[part]:
            centred = normalized[:, piece]
            squares = device.scratch(centred.shape, x.dtype, "products")
            moments = device.scratch((3, 1, centred.shape[1]), x.dtype, "moments")
            mean, residual, scale = (moments[i] for i in range(3))
            mean_of(device.column_sums(pixels[None, :, piece])[0], C, mean)
            centre_and_multiply(pixels[:, piece], mean, None, centred, squares)
            sums, of_squares = device.column_sums(centred[None])[0], device.column_sums(squares[None])[0]
            deviation(sums, of_squares, C, eps, residual, scale)
            scale_and_shift(centred, residual, scale, weight, bias)

    with device.long_rows():
        device.map(normalize, blocks(len(pieces), parts))
    return batch_first(y)
