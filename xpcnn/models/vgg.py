"""A small network in the manner of VGG (Simonyan and Zisserman 2015), with batch normalisation."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..nn import BatchNorm2d, Conv2d, GlobalAvgPool2d, Linear, MaxPool2d, Module, ReLU, Sequential
from ..random import stream


def vgg(
    in_shape: tuple[int, int, int] = (3, 32, 32), classes: int = 10, *, seed: int = 0, dtype: Any = np.float32
) -> Sequential:
    """Return three stages of two 3×3 convolutions, with 64, 128 and 256 channels and max pooling between them.

    In the manner of VGG (Simonyan and Zisserman 2015), with batch normalisation and global average pooling at the end.

    Args:
        in_shape: channels, height and width of an image in pixels; at least 4×4 pixels.
        classes: number of outputs, one logit per class.
        seed: of the initial weights.
        dtype: of the parameters, and therefore of the inputs.

    Returns:
        the network, `(N, *in_shape)` to `(N, classes)`.

    Raises:
        ValueError: if the image is smaller.
    """
    channels, height, width = in_shape
    if min(height, width) < 4:
        raise ValueError(f"vgg needs images of at least 4×4 pixels, got {height}×{width}")
    rng = stream(seed, "init")
    layers: dict[str, Module] = {}
    for stage, out_channels in enumerate((64, 128, 256), 1):
        if stage > 1:
            layers[f"pool{stage - 1}"] = MaxPool2d(2)
        for i in (1, 2):
            name = f"{stage}_{i}"
            layers[f"conv{name}"] = Conv2d(channels, out_channels, 3, padding=1, bias=False, rng=rng, dtype=dtype)
            layers[f"bn{name}"] = BatchNorm2d(out_channels, dtype=dtype)
            layers[f"relu{name}"] = ReLU()
            channels = out_channels
    return Sequential(**layers, pool3=GlobalAvgPool2d(), fc=Linear(channels, classes, rng=rng, dtype=dtype))
