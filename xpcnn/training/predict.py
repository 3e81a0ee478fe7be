"""Predictions of a trained classifier."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from ..backend import Array, HostArray, to_host
from ..data.normalize import Normalize
from ..functional import softmax_forward
from ..nn import Module
from .out_of_memory import naming_the_layer


def predict(
    model: Module,
    images: Array,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    batch_size: int = 256,
) -> HostArray:
    """Return the probability of each class for each image.

    Args:
        model: images `(N, C, H, W)` to logits `(N, classes)`; it runs in evaluation mode on its own device; its mode is
            restored afterwards.
        images: `(N, C, H, W)`, on any device: uint8 pixels, or floats from 0 to 1. Floats that are normalised already
            need neither mean nor std.
        mean: of each channel, by which the training images were normalised, as in `Loader`; zeros if None.
        std: of each channel; ones if None.
        batch_size: images in one forward pass, which bounds the memory.

    Returns:
        a NumPy array `(N, classes)` in the model's data type; each row sums to 1.

    Raises:
        ValueError: if there is no image, images have another shape or data type, or an option is outside its range.
    """
    if batch_size < 1:
        raise ValueError(f"predict: expected batch_size of 1 or more, got {batch_size}")
    if images.ndim != 4 or len(images) == 0 or not (images.dtype == np.uint8 or images.dtype.kind == "f"):
        expected = "expected images (N, C, H, W), at least one, uint8 or float"
        raise ValueError(f"predict: {expected}, got {images.shape} {images.dtype}")
    device = model.device
    dtype = next((parameter.data.dtype for parameter in model.parameters()), np.dtype(np.float32))
    white = 255 if images.dtype == np.uint8 else 1
    normalize = Normalize(images.shape[1], mean, std, dtype=dtype, white=white, device=device)
    probabilities = []
    with _evaluating(model):
        for first in range(0, len(images), batch_size):
            batch = device.asarray(images[first : first + batch_size])
            with naming_the_layer(model, len(batch)):
                values, _ = softmax_forward(model(normalize(batch)), dim=1)
            probabilities.append(to_host(values))
    return np.concatenate(probabilities)


@contextmanager
def _evaluating(model: Module) -> Iterator[None]:
    """Switch a model to evaluation mode for the block, and each module in it back to its own mode afterwards."""
    modes = [(module, module.training) for _, module in model.named_modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
