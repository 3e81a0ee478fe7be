"""A network for images of a few pixels, such as scikit-learn's digits of 8×8."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..nn import BatchNorm2d, Conv2d, Dropout, Flatten, Linear, MaxPool2d, ReLU, Sequential
from ..random import stream


def small_cnn(
    in_shape: tuple[int, int, int] = (1, 8, 8),
    classes: int = 10,
    *,
    dropout: float = 0.5,
    seed: int = 0,
    dtype: Any = np.float32,
) -> Sequential:
    """Return two convolutions – 2×2 max pooling – dropout – linear 64 – ReLU – linear.

    The convolutions are 3×3 with 16 and 32 channels, keep the image's size, and are each followed by batch
    normalisation and ReLU.

    Args:
        in_shape: channels, height and width of an image in pixels; at least 2×2 pixels.
        classes: number of outputs, one logit per class.
        dropout: probability that a value is dropped.
        seed: of the initial weights.
        dtype: of the parameters, and therefore of the inputs.

    Returns:
        the network, `(N, *in_shape)` to `(N, classes)`.

    Raises:
        ValueError: if the image is smaller.
    """
    channels, height, width = in_shape
    if min(height, width) < 2:
        raise ValueError(f"small_cnn needs images of at least 2×2 pixels, got {height}×{width}")
    rng = stream(seed, "init")
    return Sequential(
        conv1=Conv2d(channels, 16, 3, padding=1, bias=False, rng=rng, dtype=dtype),
        bn1=BatchNorm2d(16, dtype=dtype),
        relu1=ReLU(),
        conv2=Conv2d(16, 32, 3, padding=1, bias=False, rng=rng, dtype=dtype),
        bn2=BatchNorm2d(32, dtype=dtype),
        relu2=ReLU(),
        pool=MaxPool2d(2),
        flatten=Flatten(),
        dropout=Dropout(dropout, rng=rng),
        fc1=Linear(32 * (height // 2) * (width // 2), 64, rng=rng, dtype=dtype),
        relu3=ReLU(),
        fc2=Linear(64, classes, rng=rng, dtype=dtype),
    )
