"""Evaluation of large batches in chunks of images, each through the whole network while its activations are in cache.

Threads share the chunks, and need not wait for each other at every layer. How a batch is cut follows from shapes and
the device alone, so the bits are those of any number of threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from math import ceil

from ..backend import Array, Device, Shape, blocks
from . import changes
from .activation import Softmax
from .module import Module
from .normalization import BatchNorm2d
from .rewrite import observed

_FEWEST = 64  # images of a chunk: products of fewer columns are slower
_PACKAGE = __name__.partition(".")[0]
_probe = threading.local()  # `largest`: of the outputs of modules, in bytes, while `_largest_output` finds it


def note_output(y: Array) -> None:
    """Take notice of a module's output; called with each one in evaluation."""
    if "largest" in vars(_probe):
        _probe.largest = max(_probe.largest, y.nbytes)


def image_chunks(network: Module, x: Array, device: Device) -> list[slice]:
    """Return the chunks of a batch `(N, ...)` that are to be computed one by one; none to compute it as a whole."""
    if (
        device.chunk_bytes is None
        or getattr(x, "ndim", 0) < 2
        or len(x) < 2 * _FEWEST
        or not _each_image_alone(network)
    ):
        return []
    sizes: dict[Shape, int] = changes.kept(network, "sizes", dict)
    if x.shape[1:] not in sizes:
        sizes[x.shape[1:]] = _largest_output(network, x[:1])
    count = ceil(len(x) * sizes[x.shape[1:]] / device.chunk_bytes)
    if count < 2:
        return []
    # A power of two divides evenly among most numbers of threads.
    return blocks(len(x), min(len(x) // _FEWEST, 1 << (count - 1).bit_length()))


def in_chunks(function: Callable[[Array], Array], x: Array, chunks: list[slice], device: Device) -> Array:
    """Return `function(x)`, computed for each chunk of images."""
    results = device.map(lambda chunk: function(x[chunk]), chunks)
    y = device.empty((*results[0].shape[1:], len(x)), results[0].dtype)
    for chunk, result in zip(chunks, results, strict=True):
        y[..., chunk] = result.transpose(*range(1, result.ndim), 0)
    return y.transpose(-1, *range(y.ndim - 1))


def _each_image_alone(network: Module) -> bool:
    """Return whether a network is in evaluation and surely computes each image independently of the others.

    A module of the user's may do anything, and one under observation is to see whole batches.
    """
    for _, module in network.named_modules():
        if module.training or observed(module) or type(module).__module__.partition(".")[0] != _PACKAGE:
            return False
        if type(module) is Softmax or (type(module) is BatchNorm2d and not module.track_running_stats):
            return False
    return True


def _largest_output(network: Module, image: Array) -> int:
    """Return the bytes of the largest output of a module for one image, or 0 if a module refuses it."""
    _probe.largest = 0
    try:
        network(image)
        return int(_probe.largest)
    except Exception:  # raised again for the whole batch, whose shape belongs into the message
        return 0
    finally:
        del _probe.largest
