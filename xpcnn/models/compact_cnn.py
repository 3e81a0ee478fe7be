"""A small network that reaches good accuracy on small images soon: its layers with large images have few channels."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..nn import BatchNorm2d, Conv2d, Flatten, Linear, MaxPool2d, Module, ReLU, Sequential
from ..random import stream


def compact_cnn(
    in_shape: tuple[int, int, int] = (1, 28, 28),
    classes: int = 10,
    *,
    stages: tuple[tuple[int, ...], ...] = ((12,), (32,)),
    hidden_dim: int = 128,
    seed: int = 0,
    dtype: Any = np.float32,
) -> Sequential:
    """Return stages of convolutions, each ending with 2×2 max pooling, then a hidden linear layer and the logits.

    The first convolution is 5×5, the others 3×3; all keep the image's size and are followed by batch normalisation and
    ReLU. A stage is pooled before its last batch normalisation, which then has a quarter of the values to normalise (as
    in Jordan 2024, arXiv 2404.00498).

    Args:
        in_shape: channels, height and width of an image in pixels; at least `2**len(stages)` pixels each way.
        classes: number of outputs, one logit per class.
        stages: for each stage the channels of its convolutions.
        hidden_dim: number of hidden units.
        seed: of the initial weights.
        dtype: of the parameters, and therefore of the inputs.

    Returns:
        the network, `(N, *in_shape)` to `(N, classes)`.

    Raises:
        ValueError: if the image is smaller.
    """
    channels, height, width = in_shape
    least = 2 ** len(stages)
    if min(height, width) < least:
        raise ValueError(f"compact_cnn needs images of at least {least}×{least} pixels here, got {height}×{width}")
    rng = stream(seed, "init")
    layers: dict[str, Module] = {}
    for stage, widths in enumerate(stages, 1):
        for i, out_channels in enumerate(widths, 1):
            name, kernel = f"{stage}_{i}", 3 if layers else 5
            padding = kernel // 2
            layers[f"conv{name}"] = Conv2d(
                channels, out_channels, kernel, padding=padding, bias=False, rng=rng, dtype=dtype
            )
            if i == len(widths):
                layers[f"pool{stage}"] = MaxPool2d(2)
            layers |= {f"bn{name}": BatchNorm2d(out_channels, dtype=dtype), f"relu{name}": ReLU()}
            channels = out_channels
    features = channels * (height // least) * (width // least)
    return Sequential(
        **layers,
        flatten=Flatten(),
        fc1=Linear(features, hidden_dim, rng=rng, dtype=dtype),
        relu=ReLU(),
        fc2=Linear(hidden_dim, classes, rng=rng, dtype=dtype),
    )
