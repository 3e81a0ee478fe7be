"""Training step by step under observation, as recording and checking both do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np

from ..backend import HostArray
from ..data import Dataset
from ..nn import Module
from .bounds import rms
from .config import TraceConfig
from .observe import LayerCall, LossCall, ObservedLoss, host_copy, observe


@dataclass
class StepResult:
    """What one training step computed.

    Attributes:
        step: its number, from 1.
        correct: how many samples of the batch were classified correctly.
        calls: what each layer computed.
        loss: what the loss computed.
        after: the weights and buffers after the step.
    """

    step: int
    correct: int
    calls: list[LayerCall]
    loss: LossCall
    after: dict[str, HostArray]

    def sizes(self) -> dict[str, float]:
        """Return the root mean square of every array, as `"layer:array"`."""
        outputs = [*((call.name, call.outputs()) for call in self.calls), ("loss", self.loss.outputs())]
        return {f"{name}:{array}": rms(values) for name, arrays in outputs for array, values in arrays}

    def quantities(self) -> dict[str, float]:
        """Return the sizes, and the value of the loss as `"loss"`."""
        return {"loss": float(self.loss.value)} | self.sizes()

    def layout(self) -> Any:
        """Return the layers that were called, and the shape and data type of every array."""
        calls = [
            (
                *(call.name, call.kind, call.arithmetic),
                *map(_shape_and_dtype, (call.x, call.y, call.dy, call.dx)),
                {name: _shape_and_dtype(array) for name, array in call.gradients.items()},
            )
            for call in self.calls
        ]
        loss = self.loss
        of_loss = loss.kind, *map(_shape_and_dtype, (loss.output, loss.target, loss.value, loss.gradient))
        return calls, of_loss, {name: _shape_and_dtype(array) for name, array in self.after.items()}


def _shape_and_dtype(array: HostArray | None) -> Any:
    return None if array is None else (array.shape, array.dtype)


def train_steps(
    config: TraceConfig, model: Module, dataset: Dataset, batches: Sequence[HostArray]
) -> Iterator[StepResult]:
    """Train a model on its device and yield what each step computed.

    Args:
        config: what to train.
        model: with its initial weights.
        dataset: of the configuration.
        batches: the indices of the samples of each step.
    """
    trainer = config.make_trainer(model, config.steps)
    trainer.loss = loss = ObservedLoss(trainer.loss)
    model.train()
    for step, indices in enumerate(batches, 1):
        images, labels = config.batch(dataset, indices)
        with observe(model) as calls, np.errstate(over="ignore", invalid="ignore"):
            trainer.train_step(images, labels)
        correct = int((loss.call.output.argmax(axis=1) == labels).sum())
        yield StepResult(step, correct, calls, loss.call, host_state(model))


def host_state(model: Module) -> dict[str, HostArray]:
    """Return copies of a model's weights and buffers on the host."""
    return {name: host_copy(array) for name, array in model.state_dict().items()}


def batch_digest(dataset: Dataset, indices: HostArray) -> str:
    """Return the SHA-256 of the images and labels of a batch."""
    total = sha256(np.asarray(dataset.images[indices], order="C").tobytes())
    total.update(dataset.labels[indices].tobytes())
    return total.hexdigest()
