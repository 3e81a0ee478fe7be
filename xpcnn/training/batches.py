"""Batches of inputs and targets: what training takes them from, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np

from ..backend import Array, device_of

Batch: TypeAlias = tuple[Array, Array]


@runtime_checkable
class Epochs(Protocol):
    """Batches that can be had again from any place, as a `Loader` gives them."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Return the batches of an epoch, from number `start` on."""
        ...


Batches: TypeAlias = Epochs | Iterable[Batch]


def epoch_of(batches: Batches, epoch: int, start: int) -> Iterator[Batch]:
    """Return the batches of an epoch, from number `start` on."""
    return batches.epoch(epoch, start) if isinstance(batches, Epochs) else islice(iter(batches), start, None)


def checked(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Pass on batches that lie on the host still, where they can be looked at."""
    for inputs, targets in batches:
        check_batch(inputs, targets)
        yield inputs, targets


def check_batch(inputs: Array, targets: Array) -> None:
    """Raise ValueError for a batch on the host that no model can learn from."""
    if len(inputs) != len(targets):
        raise ValueError(f"expected as many targets as inputs, got {len(targets)} for {len(inputs)}")
    if device_of(inputs).on_host and not np.isfinite(inputs).all():
        raise ValueError(f"the inputs hold {np.count_nonzero(~np.isfinite(inputs))} values that are nan or infinite")
