"""Batches of inputs and targets: where training gets them from, and which ones it refuses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np

from ..backend import Array, device_of, imported
from ..data import Loader
from ..distributed import Group

Batch: TypeAlias = tuple[Array, Array]


@runtime_checkable
class Epochs(Protocol):
    """Batches of any epoch, from any batch on, as a `Loader` gives them."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Return the batches of epoch `epoch` (0 is the first), from batch `start` on."""
        ...


Batches: TypeAlias = Epochs | Iterable[Batch]


def epoch_of(batches: Batches, epoch: int, start: int, group: Group) -> Iterator[Batch]:
    """Return the batches of epoch `epoch` (0 is the first), from batch `start` on; of a group, this process's parts."""
    found = batches.epoch(epoch, start) if isinstance(batches, Epochs) else islice(iter(batches), start, None)
    if group.size == 1 or (isinstance(batches, Loader) and batches.group is group):
        return found
    return _parts(found, group)


def _parts(batches: Iterable[Batch], group: Group) -> Iterator[Batch]:
    for inputs, targets in batches:
        part = group.part(len(targets))
        yield inputs[part], targets[part]


def check_same_data(batches: Batches, other: Batches, part: str) -> None:
    """Raise ValueError if the loader of another part of the data differs in classes, mean or std."""
    if not (isinstance(batches, Loader) and isinstance(other, Loader)):
        return
    here = batches.spec
    if differences := here.differences(replace(other.spec, shape=here.shape, drawing=here.drawing)):
        raise ValueError(
            f"the {part} images differ from the training images in {differences}; "
            "give them those of the training images: Dataset(images, labels, like=train)"
        )


def checked(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Yield the batches as arrays of ours, checked; on the host checking costs no synchronisation."""
    for inputs, targets in batches:
        inputs, targets = imported(inputs), imported(targets)
        check_batch(inputs, targets)
        yield inputs, targets


def check_batch(inputs: Array, targets: Array) -> None:
    """Raise ValueError if a batch has unequal lengths, or is on the host and has values that are not finite."""
    if len(inputs) != len(targets):
        raise ValueError(f"expected as many targets as inputs, got {len(targets)} for {len(inputs)}")
    if device_of(inputs).on_host and not np.isfinite(inputs).all():
        raise ValueError(f"the inputs have {np.count_nonzero(~np.isfinite(inputs))} values that are nan or infinite")
