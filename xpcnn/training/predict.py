"""Predictions of a trained classifier."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from ..backend import Array, HostArray, imported, to_host
from ..data import DataSpec
from ..data.normalize import Normalize
from ..data.rows import Rows
from ..functional import softmax_forward
from ..nn import Module
from .out_of_memory import naming_the_layer


def predict(
    model: Module,
    images: Array | Rows,
    spec: DataSpec | None = None,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    batch_size: int = 256,
) -> HostArray:
    """Return the probability of each class for each image.

    Args:
        model: images `(N, C, H, W)` to logits `(N, classes)`; it runs in evaluation mode on its own device; its mode is
            restored afterwards.
        images: `(N, C, H, W)`, on any device, of any library with DLPack. With a `spec`, of the shape and pixels that
            it names, or `(N, H, W)`. Without, uint8 pixels, or floats: normalised already, or to be normalised by
            `mean` and `std`.
        spec: the spec of the training images, such as `loader.spec`; it has mean and std.
        mean: of each channel, by which the training images were normalised, as in `Loader`; zeros if None.
        std: of each channel; ones if None.
        batch_size: images in one forward pass, which bounds the memory.

    Returns:
        a NumPy array `(N, classes)` in the model's data type; each row sums to 1.

    Raises:
        ValueError: if images have another shape or data type, there is none and no spec, or an option is outside its
            range.
    """
    images = imported(images)
    if batch_size < 1:
        raise ValueError(f"predict: expected batch_size of 1 or more, got {batch_size}")
    if spec is not None:
        if mean is not None or std is not None:
            raise ValueError("predict: give a spec, or mean and std, not both")
        images, mean, std = spec.checked(images), spec.mean, spec.std
    elif images.ndim != 4 or len(images) == 0 or not (images.dtype == np.uint8 or images.dtype.kind == "f"):
        expected = "expected images (N, C, H, W), at least one, uint8 or float"
        raise ValueError(f"predict: {expected}, got {images.shape} {images.dtype}")
    channels = images.shape[1]
    mean, std = [0.0] * channels if mean is None else mean, [1.0] * channels if std is None else std
    if len(mean) != channels or len(std) != channels or not all(value > 0 for value in std):
        expected = f"expected {channels} values of mean and of std, each std positive"
        raise ValueError(f"predict: {expected}, got {mean} and {std}")
    device = model.device
    dtype = next((parameter.data.dtype for parameter in model.parameters()), np.dtype(np.float32))
    white = 255 if images.dtype == np.uint8 else 1
    normalize = Normalize(mean, std, dtype=dtype, white=white, device=device)
    # No images have no probabilities, of as many classes as there are.
    probabilities = [] if spec is None or len(images) else [np.empty((0, len(spec.classes)), dtype)]
    with evaluating(model):
        for first in range(0, len(images), batch_size):
            batch = device.asarray(images[first : first + batch_size])
            with naming_the_layer(model, len(batch)):
                values, _ = softmax_forward(model(normalize(batch)), dim=1)
            probabilities.append(to_host(values))
    return np.concatenate(probabilities)


@contextmanager
def evaluating(model: Module) -> Iterator[None]:
    """Switch a model to evaluation mode for the block, and each module in it back to its own mode afterwards."""
    modes = [(module, module.training) for _, module in model.named_modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
