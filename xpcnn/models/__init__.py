"""Networks, as functions and by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..nn import Sequential
from .deep_sigmoid import deep_sigmoid_net
from .lenet import lenet5
from .numpy_cnn import numpy_cnn
from .own import OwnNetwork
from .resnet import resnet, resnet20
from .three_layer import three_layer_net
from .vgg import vgg

MODELS: dict[str, Callable[..., Sequential]] = {
    "deep_sigmoid_net": deep_sigmoid_net,
    "lenet5": lenet5,
    "numpy_cnn": numpy_cnn,
    "resnet20": resnet20,
    "three_layer_net": three_layer_net,
    "vgg": vgg,
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
    "deep_sigmoid_net",
    "lenet5",
    "numpy_cnn",
    "resnet",
    "resnet20",
    "three_layer_net",
    "vgg",
]
