"""The three-layer network of CS231n's second assignment."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..nn import Conv2d, Flatten, Linear, MaxPool2d, ReLU, Sequential
from ..nn.init import normal
from ..random import stream


def three_layer_net(
    in_shape: tuple[int, int, int] = (3, 32, 32),
    classes: int = 10,
    *,
    num_filters: int = 32,
    filter_size: int = 7,
    hidden_dim: int = 100,
    weight_scale: float = 1e-3,
    seed: int = 0,
    dtype: Any = np.float32,
) -> Sequential:
    """Return convolution – ReLU – 2×2 max pooling – linear – ReLU – linear.

    The convolution keeps the image's size. For the assignment's `reg`, train with `nn.L2Penalty`.

    Args:
        in_shape: channels, height and width of an image; at least 2 pixels a side.
        classes: the number of outputs.
        num_filters, filter_size: of the convolution.
        hidden_dim: the width of the hidden layer.
        weight_scale: standard deviation of the initial weights.
        seed: of the initial weights.
        dtype: of the parameters.
    """
    channels, height, width = in_shape
    if min(height, width) < 2:
        raise ValueError(f"three_layer_net needs images of at least 2×2 pixels, got {height}×{width}")
    options: dict[str, Any] = {"weight_init": normal(weight_scale), "rng": stream(seed, "init"), "dtype": dtype}
    return Sequential(
        conv1=Conv2d(channels, num_filters, filter_size, padding="same", **options),
        relu1=ReLU(),
        pool1=MaxPool2d(2),
        flatten=Flatten(),
        fc1=Linear(num_filters * (height // 2) * (width // 2), hidden_dim, **options),
        relu2=ReLU(),
        fc2=Linear(hidden_dim, classes, **options),
    )
