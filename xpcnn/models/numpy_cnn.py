"""A small network for MNIST: three filters, overlapping pooling, one hidden layer."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..nn import Conv2d, Flatten, Linear, MaxPool2d, ReLU, Sequential
from ..random import stream


def numpy_cnn(
    in_shape: tuple[int, int, int] = (1, 28, 28), classes: int = 10, *, seed: int = 0, dtype: Any = np.float32
) -> Sequential:
    """Return convolution with 3 filters of 5×5 – ReLU – 3×3 max pooling with stride 2 – linear 84 – ReLU – linear.

    Without padding: 28×28 pixels become 24×24, and 11×11 after pooling.

    Args:
        in_shape: channels, height and width of an image in pixels; at least 7×7 pixels.
        classes: number of outputs, one logit per class.
        seed: of the initial weights.
        dtype: of the parameters, and therefore of the inputs.

    Returns:
        the network, `(N, *in_shape)` to `(N, classes)`.

    Raises:
        ValueError: if the image is smaller.
    """
    channels, height, width = in_shape
    if min(height, width) < 7:
        raise ValueError(f"numpy_cnn needs images of at least 7×7 pixels, got {height}×{width}")
    rng = stream(seed, "init")
    features = 3 * ((height - 7) // 2 + 1) * ((width - 7) // 2 + 1)
    return Sequential(
        conv1=Conv2d(channels, 3, 5, rng=rng, dtype=dtype),
        relu1=ReLU(),
        pool1=MaxPool2d(3, stride=2),
        flatten=Flatten(),
        fc1=Linear(features, 84, rng=rng, dtype=dtype),
        relu2=ReLU(),
        fc2=Linear(84, classes, rng=rng, dtype=dtype),
    )
