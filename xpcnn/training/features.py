"""What the frozen first modules of a network make of images, computed once for all epochs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..backend import Device, HostArray, to_host
from ..data import Dataset, Loader
from ..nn import Dropout, Module, Sequential
from .batches import Batch
from .predict import evaluating


class Features:
    """Batches of features in the order of a loader's batches; from there `Sequential.after` trains the rest.

    Args:
        model: the network.
        frozen: how many of its first modules are computed here.
        loader: of the images, without a transform.
        shuffle: whether each epoch has an order of its own: the one that images would have.
    """

    def __init__(self, model: Sequential, frozen: int, loader: Loader, *, shuffle: bool) -> None:
        values = _computed(model, frozen, loader)
        self._shape = values.shape[1:]
        dataset = Dataset(
            values.reshape(len(values), -1, 1, 1),
            loader.dataset.labels,
            classes=loader.dataset.classes,
            mean=(0.0,) * int(np.prod(self._shape)),
            std=(1.0,) * int(np.prod(self._shape)),
        )
        self._loader = Loader(
            dataset,
            loader.batch_size,
            shuffle=shuffle,
            seed=loader.seed,
            dtype=values.dtype,
            device=loader.device,
        )

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        return self.epoch(0)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Return the batches of epoch `epoch` (0 is the first), from batch `start` on."""
        for values, labels in self._loader.epoch(epoch, start):
            yield values.reshape(len(values), *self._shape), labels


def frozen_modules_of(model: Module) -> int:
    """Return how many of a network's first modules always make the same of an image: none that learns or drops out."""
    if type(model) is not Sequential:
        return 0
    count = 0
    for module in model:
        random = any(isinstance(inside, Dropout) for _, inside in module.named_modules())
        if random or not module.frozen or module.learns:
            break
        count += 1
    return count


def _computed(model: Sequential, frozen: int, loader: Loader) -> HostArray:
    """Return the features of all images of a loader, in the order of its data set."""
    device: Device = model.device
    first = Sequential(**dict(list(model.named_children())[:frozen]))
    in_order = Loader(
        loader.dataset,
        loader.batch_size,
        mean=loader.spec.mean,
        std=loader.spec.std,
        dtype=loader.dtype,
        device=loader.device,
    )
    with evaluating(first):
        found = [to_host(first(device.asarray(images))) for images, _ in in_order.epoch(0)]
    return np.concatenate([np.asarray(part, order="C") for part in found])
