"""Networks, as functions and by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..nn import Sequential
from .compact_cnn import compact_cnn
from .convnext import convnext, convnext_femto, convnext_tiny
from .deep_sigmoid import deep_sigmoid_net
from .efficientnet_lite import efficientnet_lite0
from .lenet import lenet5
from .mlp import mlp
from .mobilenet_v2 import mobilenet_v2
from .numpy_cnn import numpy_cnn
from .own import OwnNetwork
from .resnet import resnet, resnet20
from .resnet18 import resnet18, resnet34
from .small_cnn import small_cnn
from .three_layer import three_layer_net
from .vgg import vgg
from .whitened_cnn import whiten, whitened_cnn, whitened_cnn_small

MODELS: dict[str, Callable[..., Sequential]] = {
    "compact_cnn": compact_cnn,
    "convnext_femto": convnext_femto,
    "deep_sigmoid_net": deep_sigmoid_net,
    "efficientnet_lite0": efficientnet_lite0,
    "lenet5": lenet5,
    "mlp": mlp,
    "mobilenet_v2": mobilenet_v2,
    "numpy_cnn": numpy_cnn,
    "resnet18": resnet18,
    "resnet20": resnet20,
    "resnet34": resnet34,
    "small_cnn": small_cnn,
    "three_layer_net": three_layer_net,
    "vgg": vgg,
    "whitened_cnn": whitened_cnn,
    "whitened_cnn_small": whitened_cnn_small,
}


def build_model(
    name: str, in_shape: tuple[int, int, int], classes: int, *, seed: int = 0, **options: Any
) -> Sequential:
    """Return a network by name.

    Args:
        name: a key of `MODELS`.
        in_shape: channels, height and width of an image in pixels.
        classes: number of outputs, one logit per class.
        seed: of the initial weights.
        options: further arguments of the network's function.

    Returns:
        the network, `(N, *in_shape)` to `(N, classes)`.

    Raises:
        ValueError: if the name is unknown, or the images are too small for the network.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}: expected one of {', '.join(sorted(MODELS))}")
    return MODELS[name](in_shape, classes, seed=seed, **options)


__all__ = [
    "MODELS",
    "OwnNetwork",
    "build_model",
    "compact_cnn",
    "convnext",
    "convnext_femto",
    "convnext_tiny",
    "deep_sigmoid_net",
    "efficientnet_lite0",
    "lenet5",
    "mlp",
    "mobilenet_v2",
    "numpy_cnn",
    "resnet",
    "resnet18",
    "resnet20",
    "resnet34",
    "small_cnn",
    "three_layer_net",
    "vgg",
    "whiten",
    "whitened_cnn",
    "whitened_cnn_small",
]
