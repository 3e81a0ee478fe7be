"""The multilayer perceptron: fully connected layers alone, for tables and for images of any size."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from ..nn import Flatten, Linear, ReLU, Sequential
from ..random import stream


def mlp(
    in_shape: tuple[int, int, int] = (1, 28, 28),
    classes: int = 10,
    *,
    hidden_dim: int = 128,
    seed: int = 0,
    dtype: Any = np.float32,
) -> Sequential:
    """Return linear – ReLU – linear.

    Args:
        in_shape: channels, height and width of an image in pixels; `(features, 1, 1)` for the rows of a table.
        classes: number of outputs, one logit per class.
        hidden_dim: number of outputs of the hidden layer.
        seed: of the initial weights.
        dtype: of the parameters, and therefore of the inputs.

    Returns:
        the network, `(N, *in_shape)` to `(N, classes)`.
    """
    rng = stream(seed, "init")
    return Sequential(
        flatten=Flatten(),
        fc1=Linear(prod(in_shape), hidden_dim, rng=rng, dtype=dtype),
        relu1=ReLU(),
        fc2=Linear(hidden_dim, classes, rng=rng, dtype=dtype),
    )
