"""Jordan's small network for CIFAR-10, whose first layer whitens patches (arXiv 2404.00498)."""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np

from ..backend import Array, HostArray, to_host
from ..nn import GELU, BatchNorm2d, Conv2d, Flatten, Linear, MaxPool2d, Module, Sequential, init
from ..random import stream


def whitened_cnn(
    in_shape: tuple[int, int, int] = (3, 32, 32),
    classes: int = 10,
    *,
    widths: tuple[int, int, int] = (64, 256, 256),
    seed: int = 0,
    dtype: Any = np.float32,
) -> Sequential:
    """Return the network of "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (Jordan 2024): 1.97 million parameters.

    A 2×2 convolution, whose weights `whiten` sets; three blocks of two 3×3 convolutions, with max pooling before the
    first batch norm, where a quarter of the values is left; max pooling and a linear layer without bias. Batch norm has
    no weight to learn, so its parameter stays at 1 where the optimizer is not given it. In each 3×3 convolution filter
    i is at first the identity of channel i, as far as there are channels.

    The network of the paper divides the linear layer's output by its 256 inputs. Here this factor is in the weight,
    which starts at a standard deviation of 1/256. Pooling would leave out the last row and column of an image with an
    odd number of them, so the convolution before it does not compute them.

    Args:
        in_shape: channels, height and width of an image in pixels; at least 9×9 pixels.
        classes: number of outputs, one logit per class.
        widths: channels of the three blocks.
        seed: of the initial weights.
        dtype: of the parameters, and therefore of the inputs.

    Returns:
        the network, `(N, *in_shape)` to `(N, classes)`.

    Raises:
        ValueError: if the image is smaller.
    """
    channels, *sides = in_shape
    if min(sides) < 9:
        raise ValueError(f"whitened_cnn needs images of at least 9×9 pixels, got {sides[0]}×{sides[1]}")
    rng = stream(seed, "init")
    layers: dict[str, Module] = {"whiten": Conv2d(channels, 8 * channels, 2, rng=rng, dtype=dtype), "gelu": _gelu()}
    channels, (height, width) = 8 * channels, (side - 1 for side in sides)
    for block, features in enumerate(widths, 1):
        padding = 1, 1 - width % 2, 1, 1 - height % 2  # left, right, top, bottom
        height, width = height // 2, width // 2
        layers |= {
            f"conv{block}_1": _identity_conv(channels, features, padding, rng, dtype),
            f"pool{block}": MaxPool2d(2),
            f"bn{block}_1": _norm(features, dtype),
            f"gelu{block}_1": _gelu(),
            f"conv{block}_2": _identity_conv(features, features, 1, rng, dtype),
            f"bn{block}_2": _norm(features, dtype),
            f"gelu{block}_2": _gelu(),
        }
        channels = features
    head = {"pool": MaxPool2d((height, width)), "flatten": Flatten()}
    fc = Linear(channels, classes, bias=False, weight_init=init.normal(1 / channels), rng=rng, dtype=dtype)
    return Sequential(**layers, **head, fc=fc)


def whitened_cnn_small(
    in_shape: tuple[int, int, int] = (3, 32, 32), classes: int = 10, *, seed: int = 0, dtype: Any = np.float32
) -> Sequential:
    """Return `whitened_cnn` with blocks of 64, 128 and 128 channels: 0.57 million parameters for colour images."""
    return whitened_cnn(in_shape, classes, widths=(64, 128, 128), seed=seed, dtype=dtype)


def whiten(model: Module, images: Array) -> None:
    """Set the first layer of a `whitened_cnn` to filters that whiten the 2×2 patches of images, and their negatives.

    Half of the filters are the principal components of the patches, each divided by its standard deviation: so their
    outputs are uncorrelated and of variance 1. The layer's bias is set to 0.

    Args:
        model: the network, which may lie on any device.
        images: some thousand training images `(N, C, H, W)`, normalised, on any device.

    Raises:
        ValueError: if they have other channels than the network.
    """
    layer = dict(model.named_children())["whiten"]
    assert isinstance(layer, Conv2d)
    assert layer.bias is not None
    if images.shape[1] != layer.in_channels:
        raise ValueError(f"expected images of {layer.in_channels} channels to whiten, got {images.shape}")
    state = {"weight": _whitening(to_host(images)), "bias": np.zeros(layer.out_channels)}
    layer.load_state_dict({name: array.astype(layer.weight.data.dtype) for name, array in state.items()})


def _whitening(images: HostArray) -> HostArray:
    """Return filters `(8·C, C, 2, 2)`."""
    channels = images.shape[1]
    patches = np.lib.stride_tricks.sliding_window_view(images, (2, 2), axis=(2, 3))  # (N, C, H - 1, W - 1, 2, 2)
    patches = patches.transpose(0, 2, 3, 1, 4, 5).reshape(-1, 4 * channels)
    variances, components = np.linalg.eigh(patches.T @ patches / len(patches))
    filters = (components / np.sqrt(variances + 5e-4)).T.reshape(-1, channels, 2, 2)  # some variances are near 0
    return np.concatenate([filters, -filters])


def _identity_conv(channels: int, features: int, padding: Any, rng: np.random.Generator, dtype: Any) -> Conv2d:
    options = {"padding": padding, "bias": False, "weight_init": _small_uniform, "rng": rng, "dtype": dtype}
    layer = Conv2d(channels, features, 3, **options)
    count = np.arange(min(channels, features))
    layer.weight.data[count] = 0
    layer.weight.data[count, count, 1, 1] = 1
    return layer


def _small_uniform(shape: tuple[int, ...], rng: np.random.Generator) -> HostArray:
    """Return uniform weights of variance `1 / (3·fan_in)`, PyTorch's initial ones: smaller than an identity filter."""
    return init.lecun_uniform(shape, rng) / sqrt(3)


def _norm(channels: int, dtype: Any) -> BatchNorm2d:
    return BatchNorm2d(channels, eps=1e-12, momentum=0.4, dtype=dtype)


def _gelu() -> GELU:
    return GELU("tanh")
