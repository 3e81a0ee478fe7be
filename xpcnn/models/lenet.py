"""LeNet-5 (LeCun et al. 1998), with ReLU and max pooling, as is usual today."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..nn import Conv2d, Flatten, Linear, MaxPool2d, ReLU, Sequential
from ..random import stream


def lenet5(
    in_shape: tuple[int, int, int] = (1, 28, 28), classes: int = 10, *, seed: int = 0, dtype: Any = np.float32
) -> Sequential:
    """Return LeNet-5 (LeCun et al. 1998): two convolutions with pooling, then three fully connected layers.

    Args:
        in_shape: channels, height and width of an image in pixels; at least 12×12 pixels.
        classes: number of outputs, one logit per class.
        seed: of the initial weights.
        dtype: of the parameters, and therefore of the inputs.

    Returns:
        the network, `(N, *in_shape)` to `(N, classes)`.

    Raises:
        ValueError: if the image is smaller.
    """
    channels, height, width = in_shape
    if min(height, width) < 12:
        raise ValueError(f"lenet5 needs images of at least 12×12 pixels, got {height}×{width}")
    rng = stream(seed, "init")
    features = 16 * ((height // 2 - 4) // 2) * ((width // 2 - 4) // 2)
    return Sequential(
        conv1=Conv2d(channels, 6, 5, padding=2, rng=rng, dtype=dtype),
        relu1=ReLU(),
        pool1=MaxPool2d(2),
        conv2=Conv2d(6, 16, 5, rng=rng, dtype=dtype),
        relu2=ReLU(),
        pool2=MaxPool2d(2),
        flatten=Flatten(),
        fc1=Linear(features, 120, rng=rng, dtype=dtype),
        relu3=ReLU(),
        fc2=Linear(120, 84, rng=rng, dtype=dtype),
        relu4=ReLU(),
        fc3=Linear(84, classes, rng=rng, dtype=dtype),
    )
