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
    """Batches of any epoch, from any batch on, as a `Loader` gives them."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Return the batches of epoch `epoch` (0 is the first), from batch `start` on."""
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
        callbacks: called in this order at each step and epoch.
        metrics: what to measure besides the loss, as in `Metrics`; None for the metrics of the loss.
        before_step: called with the optimizer between the backward pass and the step: the place to clip gradients, to
            sum them over processes or to undo loss scaling. If it returns False, the step is skipped and the next
            batch adds to the gradients.

    Attributes:
        epoch: how many epochs are complete.
        batch: how many batches of the current epoch are done.
        metrics: those of the current epoch, or of the last one.

    Raises:
        ValueError: if the optimizer has a parameter that is not one of the model's.

    Example: gradients summed over four batches, then clipped.

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
        own = {id(parameter) for parameter in model.parameters()}
        other = next((name for name, parameter in optimizer.parameters.items() if id(parameter) not in own), None)
        if other is not None:
            raise ValueError(
                f"the optimizer belongs to another model: its parameter {other!r} is not one of this model's"
            )
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
        """Train until `epochs` epochs are complete, and return the record of each epoch trained by this call.

        Args:
            batches: a `Loader`, or anything to iterate over once for each epoch, such as a list of pairs of inputs and
                targets; they may lie on the host.
            epochs: in total, including those before the run was resumed.
            test: batches to evaluate on after each epoch.

        Raises:
            TrainingDivergedError: if the loss became infinite or not a number.
            ValueError: if there are no batches, or one does not fit the model.
        """
        self._stop_requested = False
        # An overflow is reported once, below, with its step, rather than by NumPy in each layer.
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
        """Train on the batches of an epoch; return False if it was stopped before its end."""
        for inputs, targets in self.model.device.prefetch(_checked(batches)):
            self._train_step(inputs, targets)
            self.batch += 1
            self._tell("on_step", self.metrics)
            if self._stop_requested:
                return self.batch == length
        if not self.batch:
            raise ValueError("there are no batches: an iterator yields them only once; pass a list or a Loader")
        return True

    def train_step(self, inputs: Array, targets: Array) -> None:
        """Train on one batch, which may be on the host.

        Raises:
            ValueError: if the batch does not fit the model, or holds values that are not finite.
        """
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
        """Make a running `fit` return after the current step; may be called from a signal handler."""
        self._stop_requested = True

    @property
    def interrupted(self) -> bool:
        """Whether the last `fit` returned because `stop` was called."""
        return self._stop_requested

    def checkpoint(self, info: dict[str, Any] | None = None) -> Checkpoint:
        """Return a checkpoint from which training resumes with the same bits as without interruption.

        Args:
            info: further entries for `Checkpoint.info`.
        """
        progress = {"epoch": self.epoch, "batch": self.batch, "step": self.optimizer.steps}
        return Checkpoint(self.model.state_dict(), self.optimizer.state_dict(), {**(info or {}), "progress": progress})

    def resume(self, checkpoint: Checkpoint) -> None:
        """Load a checkpoint, so that `fit` continues with the next batch.

        Raises:
            CheckpointError: if it has no training progress.
            ValueError: if it belongs to another model or optimizer.
        """
        try:
            epoch, batch, step = (int(checkpoint.info["progress"][key]) for key in ("epoch", "batch", "step"))
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"the checkpoint has no training progress to resume: {error!r}") from error
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
    """Return the loss and metrics of a model, computed in evaluation mode; its mode is restored afterwards.

    Args:
        model, loss, metrics: see `Trainer`.
        batches: see `Trainer.fit`; of a `Loader`, its first epoch.
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
    """Yield the batches, checked; on the host checking costs no synchronisation."""
    for inputs, targets in batches:
        check_batch(inputs, targets)
        yield inputs, targets


def check_batch(inputs: Array, targets: Array) -> None:
    """Raise ValueError if a batch has unequal lengths, or is on the host and has values that are not finite."""
    if len(inputs) != len(targets):
        raise ValueError(f"expected as many targets as inputs, got {len(targets)} for {len(inputs)}")
    if device_of(inputs).on_host and not np.isfinite(inputs).all():
        raise ValueError(f"the inputs have {np.count_nonzero(~np.isfinite(inputs))} values that are nan or infinite")
