"""From pixels to what a network is given: one formula, on any device."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike

from ..backend import CPU, Array, Device, array_namespace, batch_first, batch_last, chain, device_of


class Normalize:
    """Computes `(pixel / white - mean) / std` for each channel.

    Args:
        mean: `(C,)`, subtracted from each channel after the division by `white`.
        std: `(C,)`, each channel is divided by it afterwards.
        dtype: of the result.
        white: by which pixels are divided: 255 for bytes, 1 for floats.
        device: where the images lie.
    """

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        dtype: DTypeLike = np.float32,
        white: float = 255,
        device: Device = CPU,
    ) -> None:
        self.dtype = np.dtype(dtype)
        # As one product and one sum per pixel: (C, 1, 1, 1)
        scale = 1 / np.asarray(std, np.float64)
        factors = (scale / white, -scale * np.asarray(mean, np.float64))
        self._scale, self._shift = (
            device.asarray(factor.astype(self.dtype).reshape(-1, 1, 1, 1)) for factor in factors
        )

    def __call__(self, images: Array) -> Array:
        """Return images `(N, C, H, W)` normalised; their memory lies channel-major, `(C, H, W, N)`."""
        device = device_of(images)
        # Transposed as single bytes and made floats after that: a quarter of the memory traffic.
        pixels = batch_last(images)
        values = device.empty(pixels.shape, self.dtype)
        _normalize(pixels, self._scale, self._shift, values)
        return batch_first(values)


@chain
def _normalize(pixels: Array, scale: Array, shift: Array, values: Array) -> None:
    """Write `pixels·scale + shift` to `values (C, H, W, N)`."""
    array_namespace(pixels).multiply(pixels, scale, out=values)
    values += shift
