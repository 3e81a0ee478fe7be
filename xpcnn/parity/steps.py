"""Training step by step under observation: what recording and repeating a run have in common."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np

from ..backend import Array, HostArray
from ..data import Dataset
from ..nn import Module, Sequential
from .bounds import rms
from .config import TraceConfig
from .observe import LayerCall, host_copy, observe


@dataclass
class StepResult:
    """What one training step came to.

    Attributes:
        step: its number, from 1.
        loss: before the step.
        correct: how many samples of the batch were classified rightly.
        calls: what each layer computed, and the loss as the last of them.
        after: the weights and buffers after the step.
    """

    step: int
    loss: float
    correct: int
    calls: list[LayerCall]
    after: dict[str, HostArray]

    def sizes(self) -> dict[str, float]:
        """Return the root mean square of every array, as `"layer:array"`."""
        return {f"{call.name}:{array}": rms(values) for call in self.calls for array, values in call.outputs()}

    def quantities(self) -> dict[str, float]:
        """Return the sizes, and the loss as `"loss"`."""
        return {"loss": self.loss} | self.sizes()


class _ObservedLoss:
    """A loss that notes what it was given and what it returned, as if it were a layer."""

    def __init__(self, loss: Any) -> None:
        self._loss = loss

    def __call__(self, logits: Array, labels: Array) -> Array:
        value = self._loss(logits, labels)
        self.call = LayerCall(
            "loss", type(self._loss).__name__, "reduction", host_copy(logits), host_copy(value), host_copy(labels)
        )
        return value

    def backward(self) -> Array:
        gradient = self._loss.backward()
        self.call.dx = host_copy(gradient)
        return gradient


def train_steps(
    config: TraceConfig, model: Sequential, dataset: Dataset, rows: Sequence[HostArray]
) -> Iterator[StepResult]:
    """Train a model on its device, one batch of each of `rows`, and yield what each step came to."""
    trainer = config.run().make_trainer(model, config.steps, ())
    trainer.loss = loss = _ObservedLoss(trainer.loss)
    model.train()
    for step, batch in enumerate(rows, 1):
        images, labels = config.batch(dataset, batch)
        with observe(model) as calls, np.errstate(over="ignore", invalid="ignore"):
            trainer.train_step(images, labels)
        head = loss.call
        correct = int((head.x.argmax(axis=1) == labels).sum())
        yield StepResult(step, float(head.y), correct, [*calls, head], host_state(model))


def host_state(model: Module) -> dict[str, HostArray]:
    """Return copies of a model's weights and buffers on the host."""
    return {name: host_copy(array) for name, array in model.state_dict().items()}


def batch_digest(dataset: Dataset, rows: HostArray) -> str:
    """Return the SHA-256 of some samples of a data set."""
    total = sha256(np.asarray(dataset.images[rows], order="C").tobytes())
    total.update(dataset.labels[rows].tobytes())
    return total.hexdigest()
