"""MobileNetV2 (Sandler, Howard, Zhu, Zhmoginov and Chen 2018), with torchvision's names and weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..nn import (
    BatchNorm2d,
    Conv2d,
    Dropout,
    GlobalAvgPool2d,
    Linear,
    Module,
    ReLU6,
    ResidualSequential,
    Sequential,
    init,
)
from ..random import stream

# Expansion of the channels inside a block, channels of its output, number of blocks, stride of the first: table 2.
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def mobilenet_v2(
    in_shape: tuple[int, int, int] = (3, 224, 224),
    classes: int = 1000,
    *,
    width_mult: float = 1.0,
    dropout: float = 0.2,
    seed: int = 0,
    dtype: Any = np.float32,
) -> Sequential:
    """Return MobileNetV2: inverted residual blocks with depthwise convolutions and ReLU6.

    Parameters have the names and shapes of torchvision's `mobilenet_v2`, so `load_state_dict` takes its weights as
    arrays; initial weights are drawn as there.

    Args:
        in_shape: channels, height and width of an image in pixels; the last blocks see a 32nd of height and width.
        classes: number of outputs, one logit per class.
        width_mult: factor of all numbers of channels, which are rounded to multiples of 8.
        dropout: probability of zeroing a feature before the last layer.
        seed: of the initial weights and the dropout masks.
        dtype: of the parameters, and therefore of the inputs.

    Returns:
        the network, `(N, *in_shape)` to `(N, classes)`.

    Raises:
        ValueError: if `width_mult` is not positive, or `dropout` not a probability below 1.
    """
    if width_mult <= 0:
        raise ValueError(f"width_mult must be positive, got {width_mult}")
    rng = stream(seed, "init")
    options: dict[str, Any] = {"bias": False, "weight_init": init.he_normal_fan_out, "rng": rng, "dtype": dtype}
    channels, last = _round_channels(32 * width_mult), _round_channels(1280 * max(1.0, width_mult))
    features: list[Module] = [_conv_bn_relu(in_shape[0], channels, 3, options, stride=2)]
    for expansion, width, count, stride in _STAGES:
        for i in range(count):
            out_channels = _round_channels(width * width_mult)
            features.append(_inverted_residual(channels, out_channels, expansion, 1 if i else stride, options))
            channels = out_channels
    features.append(_conv_bn_relu(channels, last, 1, options))
    fc = Linear(last, classes, weight_init=init.normal(0.01), rng=rng, dtype=dtype)
    classifier = Sequential(Dropout(dropout, rng=rng), fc)
    return Sequential(features=Sequential(*features), avgpool=GlobalAvgPool2d(), classifier=classifier)


def _round_channels(channels: float) -> int:
    """Return the nearest multiple of 8, but at least 8 and 90 % of the number."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def _conv_bn_relu(
    in_channels: int, out_channels: int, kernel: int, options: dict[str, Any], *, stride: int = 1, groups: int = 1
) -> Sequential:
    conv = Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, groups=groups, **options)
    return Sequential(conv, BatchNorm2d(out_channels, dtype=options["dtype"]), ReLU6())


def _inverted_residual(
    in_channels: int, out_channels: int, expansion: int, stride: int, options: dict[str, Any]
) -> Sequential:
    """Return a 1×1 convolution to more channels, a depthwise 3×3, and a 1×1 to fewer channels, without an activation.

    There is a shortcut if the shape does not change.
    """
    hidden = in_channels * expansion
    layers: list[Module] = []
    if expansion > 1:
        layers.append(_conv_bn_relu(in_channels, hidden, 1, options))
    layers += [
        _conv_bn_relu(hidden, hidden, 3, options, stride=stride, groups=hidden),
        Conv2d(hidden, out_channels, 1, **options),
        BatchNorm2d(out_channels, dtype=options["dtype"]),
    ]
    kind = ResidualSequential if stride == 1 and in_channels == out_channels else Sequential
    return kind(conv=Sequential(*layers))
