"""The training loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from itertools import islice
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np

from ..backend import Array, device_of
from ..nn import CrossEntropyLoss, Dropout, Loss, Module
from ..nn.loss import Metric
from ..optim import Optimizer
from .callbacks import Callback, Record
from .checkpoint import Checkpoint, CheckpointError
from .metrics import Metrics, NonFiniteLossError

Batch: TypeAlias = tuple[Array, Array]


@runtime_checkable
class Epochs(Protocol):
    """Batches that can be had again from any place, as a `Loader` gives them."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Return the batches of an epoch, from number `start` on."""
        ...


Batches: TypeAlias = Epochs | Iterable[Batch]


class TrainingDivergedError(ArithmeticError):
    """The loss became infinite or not a number; the message names the step and the learning rate."""


class Trainer:
    """Trains a model on batches of inputs and targets.

    Args:
        model: called with a batch's inputs; training runs on the device its parameters are on.
        optimizer: over the model's parameters.
        loss: of outputs and targets; None for cross-entropy.
        callbacks: told of each step and epoch, in order.
        metrics: what to measure beside the loss, as `Metrics` takes it; None for what the loss has.
        before_step: called with the optimizer between the backward pass and the step: the place to clip gradients, to
            sum them over processes or to undo a scaling of the loss. If it returns False, the step is left out and the
            gradients stay for the next batch to add to.

    Attributes:
        epoch: how many epochs are complete.
        batch: how many batches of the epoch under way are done.
        metrics: of the epoch under way, or of the last one.

    Gradients summed over four batches, then clipped:

        def before_step(optimizer):
            before_step.calls = getattr(before_step, "calls", 0) + 1
            if before_step.calls % 4:
                return False
            clip_grad_norm(optimizer.parameters.values(), 1.0)
    """

    def __init__(
        self,
        model: Module,
        optimizer: Optimizer,
        loss: Loss | None = None,
        callbacks: Sequence[Callback] = (),
        *,
        metrics: Mapping[str, Metric] | None = None,
        before_step: Callable[[Optimizer], bool | None] | None = None,
    ) -> None:
        self.model, self.optimizer, self.before_step = model, optimizer, before_step
        self.loss = CrossEntropyLoss() if loss is None else loss
        self.callbacks = list(callbacks)
        self.epoch = self.batch = 0
        self._functions = self.loss.metrics if metrics is None else metrics
        self.metrics = Metrics(self._functions)
        self._steps: list[int] = []  # to which step each batch of the metrics belongs
        self._keep_gradients = False
        self._stop_requested = False

    def fit(self, batches: Batches, epochs: int, test: Batches | None = None) -> list[Record]:
        """Train until `epochs` epochs are complete, and return a record for each one trained here.

        Args:
            batches: a `Loader`, or anything to iterate over once for each epoch, such as a list of pairs of inputs and
                targets; they may lie on the host.
            epochs: in all, those before a resumed run included.
            test: batches to evaluate on after each epoch.

        Raises:
            TrainingDivergedError: if the loss became infinite or not a number.
            ValueError: if there are no batches, or one does not fit the model.
        """
        self._stop_requested = False
        # A loss that overflows is told of once, below, with the step; not by NumPy for each layer it passes.
        with np.errstate(over="ignore", invalid="ignore"):
            return self._fit(batches, epochs, test)

    def _fit(self, batches: Batches, epochs: int, test: Batches | None) -> list[Record]:
        records = []
        length = len(batches) if isinstance(batches, Sized) else None
        try:
            while self.epoch < epochs and not self._stop_requested:
                self._tell("on_epoch_start", self.epoch + 1, epochs, length)
                started = time.perf_counter()
                self.model.train()
                self._reset_metrics()
                complete = self._train_epoch(_epoch(batches, self.epoch, self.batch), length)
                self.metrics.read()
                if complete:
                    self.epoch, self.batch = self.epoch + 1, 0
                    records.append(self._record(time.perf_counter() - started, test))
                    self._tell("on_epoch_end", records[-1])
            if self._stop_requested:
                self._tell("on_interrupt")
        except NonFiniteLossError as error:
            step = self._steps[error.batch]
            rate = self.optimizer.learning_rate(step - 1)
            hint = ", or a label is none of the network's classes" if np.isnan(error.value) else ""
            raise TrainingDivergedError(
                f"the loss became {error.value} at step {step} (learning rate {rate:g}{hint})"
            ) from error
        finally:
            self._tell("on_stop")
        return records

    def _train_epoch(self, batches: Iterator[Batch], length: int | None) -> bool:
        """Train on the batches of an epoch, and return whether it is complete, or was stopped before."""
        for inputs, targets in self.model.device.prefetch(_checked(batches)):
            self._train_step(inputs, targets)
            self.batch += 1
            self._tell("on_step", self.metrics)
            if self._stop_requested:
                return self.batch == length
        if not self.batch:
            raise ValueError("there are no batches: an iterator can be used up; pass a list or a Loader")
        return True

    def train_step(self, inputs: Array, targets: Array) -> None:
        """Change the model by one batch, which may lie on the host."""
        check_batch(inputs, targets)
        self._train_step(self.model.device.asarray(inputs), targets)

    def _train_step(self, inputs: Array, targets: Array) -> None:
        outputs = self.model(inputs)
        targets = self.loss.place(outputs, targets)
        loss = self.loss(outputs, targets)
        if not self._keep_gradients:
            self.optimizer.zero_grad()
        self.model.backward(self.loss.backward(), input_gradient=False)
        self._steps.append(self.optimizer.steps + 1)
        self._keep_gradients = self.before_step is not None and self.before_step(self.optimizer) is False
        if not self._keep_gradients:
            self.optimizer.step()
        self.metrics.update(loss, outputs, targets)

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
        self.optimizer.load_state_dict({"steps": np.array(step), **checkpoint.optimizer})
        self.epoch, self.batch = epoch, batch
        for _, module in self.model.named_modules():
            if isinstance(module, Dropout):
                module.calls = step

    def _reset_metrics(self) -> None:
        self.metrics, self._steps = Metrics(self._functions), []

    def _record(self, seconds: float, test: Batches | None) -> Record:
        record: Record = {"epoch": self.epoch, "step": self.optimizer.steps}
        record |= {f"train_{name}": value for name, value in self.metrics.averages().items()}
        record["learning_rate"] = self.optimizer.learning_rate(self.optimizer.steps - 1)
        record |= {"seconds": seconds, "images_per_second": self.metrics.samples / seconds}
        if test is not None:
            try:
                result = evaluate(self.model, test, self.loss, self._functions)
            except NonFiniteLossError as error:
                raise TrainingDivergedError(
                    f"the test loss became {error.value} after step {self.optimizer.steps} "
                    f"(learning rate {record['learning_rate']:g})"
                ) from error
            record |= {f"test_{name}": value for name, value in result.averages().items()}
        return record

    def _tell(self, event: str, *values: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(*values)


def evaluate(
    model: Module, batches: Batches, loss: Loss | None = None, metrics: Mapping[str, Metric] | None = None
) -> Metrics:
    """Return loss and metrics of a model in evaluation mode; its mode is restored afterwards.

    Args:
        model, loss, metrics: as `Trainer` takes them.
        batches: see `Trainer.fit`; of a `Loader` the first epoch.
    """
    loss = CrossEntropyLoss() if loss is None else loss
    training = model.training
    found = Metrics(loss.metrics if metrics is None else metrics)
    model.eval()
    try:
        for inputs, targets in model.device.prefetch(_checked(_epoch(batches, 0, 0))):
            outputs = model(inputs)
            targets = loss.place(outputs, targets)
            found.update(loss(outputs, targets), outputs, targets)
    finally:
        model.train(training)
    found.read()
    return found


def _epoch(batches: Batches, epoch: int, start: int) -> Iterator[Batch]:
    return batches.epoch(epoch, start) if isinstance(batches, Epochs) else islice(iter(batches), start, None)


def _checked(batches: Iterable[Batch]) -> Iterator[Batch]:
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
