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
    """Return convolution – ReLU – 2×2 max pooling – linear – ReLU – linear, as in CS231n's second assignment.

    The convolution keeps the image's size. For the assignment's `reg`, train with `nn.L2Penalty`.

    Args:
        in_shape: channels, height and width of an image in pixels; at least 2×2 pixels.
        classes: number of outputs, one logit per class.
        num_filters, filter_size: number of the convolution's filters, and their size in pixels.
        hidden_dim: number of outputs of the hidden layer.
        weight_scale: standard deviation of the initial weights.
        seed: of the initial weights.
        dtype: of the parameters, and therefore of the inputs.

    Returns:
        the network, `(N, *in_shape)` to `(N, classes)`.

    Raises:
        ValueError: if the image is smaller.
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
