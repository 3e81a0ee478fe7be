"""Losses as objects: call one with a batch's outputs and targets, then ask it for the gradient."""

from __future__ import annotations

from typing import Any

from .. import functional as F
from ..backend import Array


class CrossEntropyLoss:
    """Mean softmax cross-entropy of logits `(N, classes)` and integer labels `(N,)`, in nats."""

    def __init__(self) -> None:
        self._cache: Any = None

    def __call__(self, logits: Array, labels: Array) -> Array:
        """Return the loss as a 0-d array on the logits' device."""
        loss, self._cache = F.cross_entropy_forward(logits, labels)
        return loss

    def backward(self) -> Array:
        """Return the gradient of the last loss by its logits, `(N, classes)`."""
        cache, self._cache = self._cache, None
        if cache is None:
            raise RuntimeError("CrossEntropyLoss.backward needs a call of the loss before it")
        return F.cross_entropy_backward(cache)
