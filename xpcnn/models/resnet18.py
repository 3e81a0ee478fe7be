"""Residual networks for large images (He, Zhang, Ren and Sun 2016, table 1), with torchvision's names and weights."""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np

from ..backend import HostArray
from ..nn import (
    BatchNorm2d,
    Conv2d,
    GlobalAvgPool2d,
    Linear,
    MaxPool2d,
    Module,
    ReLU,
    ResidualSequential,
    Sequential,
    init,
)
from ..random import stream


def resnet18(
    in_shape: tuple[int, int, int] = (3, 224, 224),
    classes: int = 1000,
    *,
    width: int = 64,
    seed: int = 0,
    dtype: Any = np.float32,
) -> Sequential:
    """Return the residual network of 18 layers: a 7×7 convolution, max pooling, and four stages of two basic blocks.

    From He, Zhang, Ren and Sun 2016, table 1. Parameters have the names and shapes of torchvision's `resnet18`, so
    `load_state_dict` takes its weights as arrays. Initial weights are drawn as there, but the last bias starts at 0.

    Args:
        in_shape: channels, height and width of an image in pixels; the last stage sees a 32nd of height and width.
        classes: number of outputs, one logit per class.
        width: channels of the first stage; each further one has twice as many.
        seed: of the initial weights.
        dtype: of the parameters, and therefore of the inputs.

    Returns:
        the network, `(N, *in_shape)` to `(N, classes)`.
    """
    return _basic_resnet((2, 2, 2, 2), in_shape, classes, width, seed, dtype)


def resnet34(
    in_shape: tuple[int, int, int] = (3, 224, 224),
    classes: int = 1000,
    *,
    width: int = 64,
    seed: int = 0,
    dtype: Any = np.float32,
) -> Sequential:
    """Return the residual network of 34 layers: stages of 3, 4, 6 and 3 basic blocks; otherwise as `resnet18`."""
    return _basic_resnet((3, 4, 6, 3), in_shape, classes, width, seed, dtype)


def _basic_resnet(
    depths: tuple[int, ...], in_shape: tuple[int, int, int], classes: int, width: int, seed: int, dtype: Any
) -> Sequential:
    rng = stream(seed, "init")
    options: dict[str, Any] = {"bias": False, "weight_init": init.he_normal_fan_out, "rng": rng, "dtype": dtype}
    layers: dict[str, Module] = {
        "conv1": Conv2d(in_shape[0], width, 7, stride=2, padding=3, **options),
        "bn1": BatchNorm2d(width, dtype=dtype),
        "relu": ReLU(),
        "maxpool": MaxPool2d(3, stride=2, padding=1),
    }
    channels = width
    for stage, depth in enumerate(depths):
        blocks = []
        for i in range(depth):
            blocks.append(_basic_block(channels, width << stage, 2 if stage and not i else 1, options))
            channels = width << stage
        layers[f"layer{stage + 1}"] = Sequential(*blocks)
    fc = Linear(channels, classes, weight_init=_pytorch_uniform, rng=rng, dtype=dtype)
    return Sequential(**layers, avgpool=GlobalAvgPool2d(), fc=fc)


def _basic_block(in_channels: int, out_channels: int, stride: int, options: dict[str, Any]) -> ResidualSequential:
    """Return two 3×3 convolutions with a shortcut, a 1×1 convolution where the shape changes."""
    dtype = options["dtype"]
    layers = {
        "conv1": Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, **options),
        "bn1": BatchNorm2d(out_channels, dtype=dtype),
        "relu": ReLU(),
        "conv2": Conv2d(out_channels, out_channels, 3, padding=1, **options),
        "bn2": BatchNorm2d(out_channels, dtype=dtype),
    }
    downsample = None
    if stride > 1:
        shortcut = Conv2d(in_channels, out_channels, 1, stride=stride, **options)
        downsample = Sequential(shortcut, BatchNorm2d(out_channels, dtype=dtype))
    return ResidualSequential(**layers, downsample=downsample, activation=ReLU())


def _pytorch_uniform(shape: tuple[int, ...], rng: np.random.Generator) -> HostArray:
    """Return uniform weights up to `1 / sqrt(fan_in)`, PyTorch's for a linear layer."""
    bound = 1 / sqrt(shape[1])
    return rng.uniform(-bound, bound, shape)
