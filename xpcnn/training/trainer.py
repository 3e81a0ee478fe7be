"""The training loop."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ..backend import CPU, Array, device_of
from ..data import Loader
from ..nn import CrossEntropyLoss, Dropout, Module
from ..optim import Optimizer, Schedule
from .callbacks import Callback, Record
from .checkpoint import Checkpoint, CheckpointError
from .metrics import Metrics, NonFiniteLossError


class TrainingDivergedError(ArithmeticError):
    """The loss became infinite or not a number; the message names the step and the learning rate."""


class Trainer:
    """Trains a classifier on batches of images and labels.

    Args:
        model: images `(N, C, H, W)` to logits `(N, classes)`; training runs on the device its parameters are on.
        optimizer: over the model's parameters.
        loss: called with logits and labels; its `backward()` gives the gradient by the logits.
        schedule: the learning rate by step; None leaves the optimizer's.
        callbacks: told of each step and epoch, in order.

    Attributes:
        epoch: how many epochs are complete.
        batch: how many batches of the epoch under way are done.
        metrics: loss and accuracy of the epoch under way, or of the last one.
    """

    def __init__(
        self,
        model: Module,
        optimizer: Optimizer,
        loss: Any = None,
        schedule: Schedule | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.model, self.optimizer, self.schedule = model, optimizer, schedule
        self.loss = CrossEntropyLoss() if loss is None else loss
        self.callbacks = list(callbacks)
        self.epoch = self.batch = 0
        self.metrics = Metrics()
        self._stop_requested = False

    def fit(self, loader: Loader, epochs: int, test: Loader | None = None) -> list[Record]:
        """Train until `epochs` epochs are complete, and return a record for each one trained here.

        Args:
            loader: the training batches.
            epochs: in all, those before a resumed run included.
            test: batches to evaluate on after each epoch.

        Raises:
            TrainingDivergedError: if the loss became infinite or not a number.
        """
        self._stop_requested = False
        # A loss that overflows is told of once, below, with the step; not by NumPy for each layer it passes.
        with np.errstate(over="ignore", invalid="ignore"):
            return self._fit(loader, epochs, test)

    def _fit(self, loader: Loader, epochs: int, test: Loader | None) -> list[Record]:
        records = []
        try:
            while self.epoch < epochs and not self._stop_requested:
                self._tell("on_epoch_start", self.epoch + 1, epochs, len(loader))
                started = time.perf_counter()
                self.model.train()
                self.metrics = Metrics()
                batches = _checked(loader.epoch(self.epoch, start=self.batch))
                for images, labels in self.model.device.prefetch(batches):
                    self._train_step(images, labels)
                    self.batch += 1
                    self._tell("on_step", self.metrics)
                    if self._stop_requested:
                        break
                self.metrics.read()
                if self.batch == len(loader):
                    self.epoch, self.batch = self.epoch + 1, 0
                    records.append(self._record(time.perf_counter() - started, test))
                    self._tell("on_epoch_end", records[-1])
            if self._stop_requested:
                self._tell("on_interrupt")
        except NonFiniteLossError as error:
            step = self.optimizer.steps - len(self.metrics.sizes) + error.batch + 1
            raise TrainingDivergedError(
                f"the loss became {error.value} at step {step} (learning rate {self.optimizer.lr:g})"
            ) from error
        finally:
            self._tell("on_stop")
        return records

    def train_step(self, images: Array, labels: Array) -> None:
        """Change the model by one batch; images and labels may lie on the host."""
        check_batch(images, labels)
        self._train_step(self.model.device.asarray(images), labels)

    def _train_step(self, images: Array, labels: Array) -> None:
        device = device_of(images)
        if self.schedule is not None:
            self.optimizer.lr = self.schedule(self.optimizer.steps)
        logits = self.model(images)
        check_labels(labels, logits.shape[1])
        labels = device.asarray(labels)
        loss = self.loss(logits, labels)
        self.optimizer.zero_grad()
        self.model.backward(self.loss.backward(), input_gradient=False)
        self.optimizer.step()
        self.metrics.update(loss, logits, labels)

    def stop(self) -> None:
        """Ask a running `fit` to return after the step under way; may be called from a signal handler."""
        self._stop_requested = True

    @property
    def interrupted(self) -> bool:
        """Whether the last `fit` returned because `stop` was called."""
        return self._stop_requested

    def checkpoint(self, info: dict[str, Any] | None = None) -> Checkpoint:
        """Return all that is needed to go on from here with the same bits, on any device."""
        progress = {"epoch": self.epoch, "batch": self.batch, "step": self.optimizer.steps}
        return Checkpoint(self.model.state_dict(), self.optimizer.state_dict(), {**(info or {}), "progress": progress})

    def resume(self, checkpoint: Checkpoint) -> None:
        """Take up the state of a checkpoint, so that `fit` goes on with the batch after its last.

        Raises:
            CheckpointError: if it holds no training progress.
            ValueError: if it belongs to another model or optimizer.
        """
        try:
            epoch, batch, step = (int(checkpoint.info["progress"][key]) for key in ("epoch", "batch", "step"))
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"the checkpoint holds no training progress to resume: {error!r}") from error
        self.model.load_state_dict(checkpoint.model)
        self.optimizer.load_state_dict(checkpoint.optimizer, step)
        self.epoch, self.batch = epoch, batch
        for _, module in self.model.named_modules():
            if isinstance(module, Dropout):
                module.calls = step

    def _record(self, seconds: float, test: Loader | None) -> Record:
        record: Record = {
            "epoch": self.epoch,
            "step": self.optimizer.steps,
            "train_loss": self.metrics.loss,
            "train_accuracy": self.metrics.accuracy,
            "learning_rate": self.optimizer.lr,
            "seconds": seconds,
            "images_per_second": self.metrics.samples / seconds,
        }
        if test is not None:
            try:
                result = evaluate(self.model, test, self.loss)
            except NonFiniteLossError as error:
                raise TrainingDivergedError(
                    f"the test loss became {error.value} after step {self.optimizer.steps} "
                    f"(learning rate {self.optimizer.lr:g})"
                ) from error
            record |= {"test_loss": result.loss, "test_accuracy": result.accuracy}
        return record

    def _tell(self, event: str, *values: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(*values)


def evaluate(model: Module, loader: Loader, loss: Any = None) -> Metrics:
    """Return loss and accuracy of a model in evaluation mode; its mode is restored afterwards."""
    loss = CrossEntropyLoss() if loss is None else loss
    device, training = model.device, model.training
    metrics = Metrics()
    model.eval()
    try:
        for images, labels in device.prefetch(_checked(loader)):
            logits = model(images)
            check_labels(labels, logits.shape[1])
            labels = device.asarray(labels)
            metrics.update(loss(logits, labels), logits, labels)
    finally:
        model.train(training)
    metrics.read()
    return metrics


def _checked(batches: Iterable[tuple[Array, Array]]) -> Iterator[tuple[Array, Array]]:
    """Pass on batches that lie on the host still, where they can be looked at."""
    for images, labels in batches:
        check_batch(images, labels)
        yield images, labels


def check_batch(images: Array, labels: Array) -> None:
    """Raise ValueError for a batch on the host that no model can learn from."""
    if len(images) != len(labels):
        raise ValueError(f"expected as many labels as images, got {len(labels)} for {len(images)}")
    if device_of(images) is CPU and not np.isfinite(images).all():
        raise ValueError(f"the images hold {np.count_nonzero(~np.isfinite(images))} values that are nan or infinite")


def check_labels(labels: Array, classes: int) -> None:
    """Raise ValueError for labels on the host out of range: on a GPU they would go unnoticed."""
    if device_of(labels) is CPU and len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(f"expected labels from 0 to {classes - 1}, got {labels.min()} to {labels.max()}")
