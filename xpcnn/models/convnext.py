"""ConvNeXt (Liu, Mao, Wu, Feichtenhofer, Darrell and Xie 2022), with torchvision's names and weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import functional as F
from ..backend import Array
from ..nn import GELU, AdaptiveAvgPool2d, Conv2d, Flatten, LayerNorm2d, Linear, Module, Sequential, init
from ..nn.linear import PointwiseLinear
from ..nn.module import host_parameter
from ..random import stream


def convnext(
    in_shape: tuple[int, int, int] = (3, 224, 224),
    classes: int = 1000,
    *,
    depths: Sequence[int],
    widths: Sequence[int],
    layer_scale: float = 1e-6,
    seed: int = 0,
    dtype: Any = np.float32,
) -> Sequential:
    """Return a ConvNeXt: stages of blocks, each of a 7×7 depthwise convolution, layer norm and two linear layers.

    The first layer makes one position of 4×4 pixels, and each further stage one of 2×2. Parameters have the names and
    shapes of torchvision's `convnext_tiny` and its larger ones, so `load_state_dict` takes their weights as arrays;
    initial weights are drawn as there. Stochastic depth, which drops whole blocks in training, is left out.

    Args:
        in_shape: channels, height and width of an image in pixels; at least 4 pixels in height and width, and twice as
            many for each stage after the first.
        classes: number of outputs, one logit per class.
        depths: number of blocks of each stage.
        widths: number of channels of each stage.
        layer_scale: initial factor of each channel of a block's branch.
        seed: of the initial weights.
        dtype: of the parameters, and therefore of the inputs.

    Returns:
        the network, `(N, *in_shape)` to `(N, classes)`.

    Raises:
        ValueError: if the image is smaller, or there are not as many depths as widths.
    """
    if len(depths) != len(widths):
        raise ValueError(f"expected a depth and a width for each stage, got {len(depths)} and {len(widths)}")
    channels, height, width = in_shape
    least = 4 << len(depths) - 1
    if min(height, width) < least:
        raise ValueError(f"convnext needs images of at least {least}×{least} pixels, got {height}×{width}")
    options: dict[str, Any] = {"weight_init": init.normal(0.02), "rng": stream(seed, "init"), "dtype": dtype}
    features: list[Module] = []
    for stage, (depth, out_channels) in enumerate(zip(depths, widths, strict=True)):
        layers: list[Module]
        if stage:
            layers = [_norm(channels, dtype), Conv2d(channels, out_channels, 2, stride=2, **options)]
        else:
            layers = [Conv2d(channels, out_channels, 4, stride=4, **options), _norm(out_channels, dtype)]
        blocks = (ConvNeXtBlock(out_channels, layer_scale, options) for _ in range(depth))
        features += [Sequential(*layers), Sequential(*blocks)]
        channels = out_channels
    classifier = Sequential(_norm(channels, dtype), Flatten(), Linear(channels, classes, **options))
    return Sequential(features=Sequential(*features), avgpool=AdaptiveAvgPool2d(1), classifier=classifier)


def convnext_femto(
    in_shape: tuple[int, int, int] = (3, 224, 224), classes: int = 1000, *, seed: int = 0, dtype: Any = np.float32
) -> Sequential:
    """Return the ConvNeXt that timm calls femto: 2, 2, 6 and 2 blocks of 48, 96, 192 and 384 channels.

    The arguments are those of `convnext`. Its parameters have torchvision's names, not timm's.
    """
    return convnext(in_shape, classes, depths=(2, 2, 6, 2), widths=(48, 96, 192, 384), seed=seed, dtype=dtype)


def convnext_tiny(
    in_shape: tuple[int, int, int] = (3, 224, 224), classes: int = 1000, *, seed: int = 0, dtype: Any = np.float32
) -> Sequential:
    """Return ConvNeXt-T: 3, 3, 9 and 3 blocks of 96, 192, 384 and 768 channels. The arguments are `convnext`'s."""
    return convnext(in_shape, classes, depths=(3, 3, 9, 3), widths=(96, 192, 384, 768), seed=seed, dtype=dtype)


def _norm(channels: int, dtype: Any) -> LayerNorm2d:
    return LayerNorm2d(channels, eps=1e-6, dtype=dtype)


class ConvNeXtBlock(Module):
    """`x + layer_scale·block(x)`: a 7×7 depthwise convolution, layer norm, and two linear layers with GELU between.

    Args:
        channels: C.
        scale: initial value of `layer_scale`, a factor for each channel.
        options: `weight_init`, `rng` and `dtype` of the layers.
    """

    arithmetic = "elementwise"

    def __init__(self, channels: int, scale: float, options: dict[str, Any]) -> None:
        super().__init__()
        layers = {  # torchvision has permutations of the axes as 1 and 6
            "0": Conv2d(channels, channels, 7, padding=3, groups=channels, **options),
            "2": _norm(channels, options["dtype"]),
            "3": PointwiseLinear(channels, 4 * channels, **options),
            "4": GELU(),
            "5": PointwiseLinear(4 * channels, channels, **options),
        }
        self.block = Sequential(**layers)
        self.layer_scale = host_parameter(np.full((channels, 1, 1), scale), options["dtype"])

    def forward(self, x: Array) -> Array:
        y, cache = F.layer_scale_forward(x, self.block(x), self.layer_scale.data)
        self.save_for_backward(cache)
        return y

    def backward(self, dy: Array, *, input_gradient: bool = True) -> Array | None:
        dbranch, dscale = F.layer_scale_backward(dy, self.saved(), scale_gradient=not self.layer_scale.frozen)
        if dscale is not None:
            self.layer_scale.add_gradient(dscale)
        dx = self.block.backward(dbranch, input_gradient=input_gradient)
        return F.add(dx, dy) if input_gradient else None
