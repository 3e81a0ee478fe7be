"""Residual networks for small images (He, Zhang, Ren and Sun 2016, section 4.2)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..nn import BatchNorm2d, Conv2d, GlobalAvgPool2d, Linear, ReLU, Residual, Sequential
from ..random import stream


def resnet(
    in_shape: tuple[int, int, int] = (3, 32, 32),
    classes: int = 10,
    *,
    n: int = 3,
    seed: int = 0,
    dtype: Any = np.float32,
) -> Sequential:
    """Return a residual network of `6·n + 2` layers: three stages of n blocks with 16, 32 and 64 channels.

    From He, Zhang, Ren and Sun 2016, section 4.2. Where a stage halves the image, the shortcut is a 1×1 convolution
    (option B of the paper).

    Args:
        in_shape: channels, height and width of an image in pixels.
        classes: number of outputs, one logit per class.
        n: number of blocks per stage.
        seed: of the initial weights.
        dtype: of the parameters, and therefore of the inputs.

    Returns:
        the network, `(N, *in_shape)` to `(N, classes)`.

    Raises:
        ValueError: if `n` is below 1.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    options: dict[str, Any] = {"bias": False, "rng": stream(seed, "init"), "dtype": dtype}
    layers = {
        "conv1": Conv2d(in_shape[0], 16, 3, padding=1, **options),
        "bn1": BatchNorm2d(16, dtype=dtype),
        "relu1": ReLU(),
    }
    channels = 16
    for stage, width in enumerate((16, 32, 64), 1):
        blocks = [_block(channels if i == 0 else width, width, options) for i in range(n)]
        layers[f"stage{stage}"] = Sequential(*blocks)
        channels = width
    rng = options["rng"]
    return Sequential(**layers, pool=GlobalAvgPool2d(), fc=Linear(channels, classes, rng=rng, dtype=dtype))


def resnet20(
    in_shape: tuple[int, int, int] = (3, 32, 32), classes: int = 10, *, seed: int = 0, dtype: Any = np.float32
) -> Sequential:
    """Return `resnet` with n = 3: 20 layers. The arguments are those of `resnet`."""
    return resnet(in_shape, classes, n=3, seed=seed, dtype=dtype)


def _block(in_channels: int, out_channels: int, options: dict[str, Any]) -> Residual:
    """Return two convolutions with a shortcut; if the number of channels changes, they halve the image."""
    stride = 1 if in_channels == out_channels else 2
    dtype = options["dtype"]
    main = Sequential(
        conv1=Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, **options),
        bn1=BatchNorm2d(out_channels, dtype=dtype),
        relu1=ReLU(),
        conv2=Conv2d(out_channels, out_channels, 3, padding=1, **options),
        bn2=BatchNorm2d(out_channels, dtype=dtype),
    )
    shortcut = None
    if stride > 1:
        shortcut = Sequential(
            conv=Conv2d(in_channels, out_channels, 1, stride=stride, **options),
            bn=BatchNorm2d(out_channels, dtype=dtype),
        )
    return Residual(main, shortcut, ReLU())
