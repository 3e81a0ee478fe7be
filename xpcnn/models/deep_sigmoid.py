"""Two convolutions and a hidden layer with sigmoids, without pooling."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..nn import Conv2d, Flatten, Linear, Sequential, Sigmoid
from ..nn.init import glorot_uniform
from ..random import stream


def deep_sigmoid_net(
    in_shape: tuple[int, int, int] = (1, 28, 28), classes: int = 10, *, seed: int = 0, dtype: Any = np.float32
) -> Sequential:
    """Return convolutions with 20 and 50 filters of 5×5, a hidden layer of 500 and a linear layer, sigmoids between.

    Args:
        in_shape: channels, height and width of an image in pixels; at least 9×9 pixels.
        classes: number of outputs, one logit per class.
        seed: of the initial weights.
        dtype: of the parameters, and therefore of the inputs.

    Returns:
        the network, `(N, *in_shape)` to `(N, classes)`.

    Raises:
        ValueError: if the image is smaller.
    """
    channels, height, width = in_shape
    if min(height, width) < 9:
        raise ValueError(f"deep_sigmoid_net needs images of at least 9×9 pixels, got {height}×{width}")
    options: dict[str, Any] = {"weight_init": glorot_uniform, "rng": stream(seed, "init"), "dtype": dtype}
    return Sequential(
        conv1=Conv2d(channels, 20, 5, **options),
        sigmoid1=Sigmoid(),
        conv2=Conv2d(20, 50, 5, **options),
        sigmoid2=Sigmoid(),
        flatten=Flatten(),
        fc1=Linear(50 * (height - 8) * (width - 8), 500, **options),
        sigmoid3=Sigmoid(),
        fc2=Linear(500, classes, **options),
    )
