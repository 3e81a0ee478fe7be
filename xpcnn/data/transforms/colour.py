"""Random brightness, contrast and saturation."""

from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np

from ...backend import Array, HostArray, array_namespace, chain, device_of

# Bits of fractions, for uint8 images: of a factor, of a grey, and of their product. With factors up to 8 (of the pixel)
# and 4 (of grey), 18 bits leave room for the sum in 32 bits.
_FACTOR, _GREY = 12, 6
_PRODUCT = _FACTOR + _GREY
_WEIGHT = 16
_LUMA = (0.299, 0.587, 0.114)  # what red, green and blue contribute to grey (ITU-R BT.601, as in PyTorch)


@dataclass(frozen=True)
class ColorJitter:
    """Change the brightness, contrast and saturation of each image, by factors from `1 - option` to `1 + option`.

    As in PyTorch, brightness multiplies the image, contrast its difference from its mean grey, saturation its
    difference from its own grey image; here always in this order, and uint8 images are rounded and clipped once, at the
    end. Floats are not clipped. Grey is the mean of the channels, weighted 0.299, 0.587, 0.114 if there are three, so
    that saturation leaves images with one channel as they are.

    Args:
        brightness, contrast, saturation: from 0 to 1; the factor of each image is drawn uniformly.

    Raises:
        ValueError: if an option is outside its range.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    any_device: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for field in fields(self):
            if not 0 <= getattr(self, field.name) <= 1:
                raise ValueError(f"ColorJitter: expected {field.name} from 0 to 1, got {getattr(self, field.name)}")

    def __call__(self, images: Array, generator: np.random.Generator) -> Array:
        N, C = images.shape[:2]
        strengths = np.array([[self.brightness], [self.contrast], [self.saturation]])
        brightness, contrast, saturation = 1 + strengths * generator.uniform(-1, 1, (3, N))
        # The three together are one linear map: own·pixel + grey·its grey + mean·the image's mean grey.
        own, grey = brightness * contrast * saturation, brightness * contrast * (1 - saturation)
        mean = brightness * (1 - contrast)
        factors = np.stack([own, grey, mean])[:, :, None, None, None]
        weights = np.array(_LUMA if C == 3 else [1 / C] * C)
        return (_mixed_bytes if images.dtype == np.uint8 else _mixed_floats)(images, factors, weights)


def _mixed_floats(images: Array, factors: HostArray, weights: HostArray) -> Array:
    factors = device_of(images).asarray(factors, images.dtype)
    greys = device_of(images).empty((len(images), 1, *images.shape[2:]), images.dtype)
    _weighted_sum(greys, images.dtype.type(0), *_channels(images), *weights.astype(images.dtype))
    return _mix(images, greys, factors[0], factors[1], factors[2] * greys.mean(axis=(2, 3), keepdims=True))


def _mixed_bytes(images: Array, factors: HostArray, weights: HostArray) -> Array:
    """Do the same with integers, as multiples of a power of two."""
    device, (N, _, H, W) = device_of(images), images.shape
    weights = np.rint(weights * (1 << _WEIGHT)).astype(np.int32)
    greys = device.scratch((N, 1, H, W), np.int32, "greys")
    _weighted_sum(greys, np.int32(0), *_channels(images), *weights)
    greys >>= np.int32(_WEIGHT - _GREY)
    scales = np.array([1 << _PRODUCT, 1 << _FACTOR, 1 << _FACTOR]).reshape(3, 1, 1, 1, 1)
    factors = device.asarray(np.rint(factors * scales).astype(np.int32))
    means = factors[2] * greys.sum(axis=(2, 3), keepdims=True, dtype=np.int64) // (H * W)
    shift = (means + (1 << _PRODUCT - 1)).astype(np.int32)  # a half, to round to the nearest
    sums, result = device.scratch(images.shape, np.int32, "sums"), device.empty(images.shape, np.uint8)
    _mix_bytes(images, greys, factors[0], factors[1], shift, sums, result)
    return result


def _channels(images: Array) -> list[Array]:
    return [images[:, c : c + 1] for c in range(images.shape[1])]


@chain
def _weighted_sum(result: Array, start: Any, *channels_and_weights: Any) -> None:
    C = len(channels_and_weights) // 2
    result[...] = start
    for channel, weight in zip(channels_and_weights[:C], channels_and_weights[C:], strict=True):
        result += channel * weight


@chain
def _mix(images: Array, greys: Array, own: Array, grey: Array, mean: Array) -> Array:
    return own * images + grey * greys + mean


@chain
def _mix_bytes(images: Array, greys: Array, own: Array, grey: Array, mean: Array, sums: Array, result: Array) -> None:
    xp = array_namespace(images)
    xp.multiply(images, own, out=sums)
    sums += grey * greys + mean
    sums >>= xp.int32(_PRODUCT)
    xp.minimum(xp.maximum(sums, 0, out=sums), 255, out=sums)
    result[...] = sums.astype(xp.uint8)
