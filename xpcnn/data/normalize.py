"""From pixels to what a network is given: one formula, on any device."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike

from ..backend import CPU, Array, Device, array_namespace, batch_first, chain, device_of


class Normalize:
    """Computes `(pixel / white - mean) / std` for each channel.

    Args:
        channels: C, how many channels images have.
        mean: subtracted from each channel, pixels scaled to [0, 1]; zeros if None.
        std: each channel is divided by it afterwards; ones if None.
        dtype: of the result.
        white: the largest value of a pixel: 255 for bytes, 1 for pixels already scaled to [0, 1].
        device: where the images lie.

    Raises:
        ValueError: if mean and std are not `channels` values each, or a std is not positive.
    """

    def __init__(
        self,
        channels: int,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        *,
        dtype: DTypeLike = np.float32,
        white: float = 255,
        device: Device = CPU,
    ) -> None:
        mean, std = [0.0] * channels if mean is None else mean, [1.0] * channels if std is None else std
        if len(mean) != channels or len(std) != channels or not all(value > 0 for value in std):
            raise ValueError(f"expected {channels} values of mean and of std, each std positive, got {mean} and {std}")
        self.dtype = np.dtype(dtype)
        # As one product and one sum per pixel: (C, 1, 1, 1)
        scale = 1 / np.asarray(std, np.float64)
        factors = (scale / white, -scale * mean)
        self._scale, self._shift = (
            device.asarray(factor.astype(self.dtype).reshape(channels, 1, 1, 1)) for factor in factors
        )

    def __call__(self, images: Array) -> Array:
        """Return images `(N, C, H, W)` normalised; their memory lies channel-major, `(C, H, W, N)`."""
        device = device_of(images)
        # Transposed as single bytes and made floats after that: a quarter of the memory traffic.
        pixels = device.xp.ascontiguousarray(images.transpose(1, 2, 3, 0))
        values = device.empty(pixels.shape, self.dtype)
        _normalize(pixels, self._scale, self._shift, values)
        return batch_first(values)


@chain
def _normalize(pixels: Array, scale: Array, shift: Array, values: Array) -> None:
    """Write `pixels·scale + shift` to `values (C, H, W, N)`."""
    array_namespace(pixels).multiply(pixels, scale, out=values)
    values += shift
