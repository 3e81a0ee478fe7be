"""Layers that are often used together, as one `Sequential`."""

from __future__ import annotations

from typing import Any

from ..functional.windows import IntOrPair
from .activation import ReLU
from .containers import Sequential
from .convolution import Conv2d
from .module import Module
from .pooling import MaxPool2d


def conv_relu(
    in_channels: int, out_channels: int, kernel_size: IntOrPair, *, activation: Module | None = None, **options: Any
) -> Sequential:
    """Return a convolution and an activation, named `conv` and `act`.

    Args:
        in_channels, out_channels, kernel_size: of the convolution; see `Conv2d`.
        activation: None for ReLU.
        options: the other arguments of `Conv2d`.
    """
    return Sequential(
        conv=Conv2d(in_channels, out_channels, kernel_size, **options),
        act=ReLU() if activation is None else activation,
    )


def conv_relu_pool(
    in_channels: int,
    out_channels: int,
    kernel_size: IntOrPair,
    *,
    pool_size: IntOrPair = 2,
    pool_stride: IntOrPair | None = None,
    activation: Module | None = None,
    **options: Any,
) -> Sequential:
    """Return a convolution, an activation and max pooling, named `conv`, `act` and `pool`.

    Args:
        in_channels, out_channels, kernel_size: of the convolution; see `Conv2d`.
        pool_size: height and width of the pooling window, one number or a pair.
        pool_stride: step between its positions; None for its size.
        activation: None for ReLU.
        options: the other arguments of `Conv2d`.
    """
    return Sequential(
        conv=Conv2d(in_channels, out_channels, kernel_size, **options),
        act=ReLU() if activation is None else activation,
        pool=MaxPool2d(pool_size, pool_stride),
    )
