"""The training loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from typing import Any

import numpy as np

from ..backend import Array, to_host
from ..nn import CrossEntropyLoss, Dropout, Loss, Module
from ..nn.loss import Metric
from ..optim import Optimizer
from .batches import Batch, Batches, check_batch, checked, epoch_of
from .callbacks import Callback, Record, checked_record
from .checkpoint import Checkpoint, CheckpointError, non_finite
from .metrics import Metrics, NonFiniteLossError
from .out_of_memory import naming_the_layer


class TrainingDivergedError(ArithmeticError):
    """The loss or a weight became infinite or not a number; the message names the step and the learning rate."""


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
        records: of all complete epochs, including those before the run was resumed.
        interrupted: whether the last `fit` returned because `stop` was called.

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
        self.records: list[Record] = []
        self._functions = self.loss.metrics if metrics is None else metrics
        self.metrics = Metrics(self._functions)
        self._steps: list[int] = []  # the step of each batch of the metrics
        self._seconds = 0.0  # spent on the current epoch before `_started`
        self._started: float | None = None
        self._keep_gradients = False
        self.interrupted = self._stop_requested = False

    def fit(self, batches: Batches, epochs: int, test: Batches | None = None) -> list[Record]:
        """Train until `epochs` epochs are complete, and return the record of each epoch trained by this call.

        Args:
            batches: a `Loader`, or anything to iterate over once for each epoch, such as a list of pairs of inputs and
                targets; they may lie on the host.
            epochs: in total, including those before the run was resumed.
            test: batches to evaluate on after each epoch.

        Raises:
            TrainingDivergedError: if the loss or a weight became infinite or not a number.
            MemoryError: if there is not enough memory; the message names the layer and the batch size.
            ValueError: if there are no batches, or one does not fit the model.
        """
        # An overflow is reported once, below, with its step, rather than by NumPy in each layer.
        with np.errstate(over="ignore", invalid="ignore"):
            return self._fit(batches, epochs, test)

    def _fit(self, batches: Batches, epochs: int, test: Batches | None) -> list[Record]:
        records = []
        length = len(batches) if isinstance(batches, Sized) else None
        try:
            while self.epoch < epochs and not self._stop_requested:
                if not self.batch:  # else a resumed epoch, whose metrics continue
                    self.metrics, self._steps, self._seconds = Metrics(self._functions), [], 0.0
                self._started = time.perf_counter()
                self._tell("on_epoch_start", self.epoch + 1, epochs, length)
                self.model.train()
                complete = self._train_epoch(epoch_of(batches, self.epoch, self.batch), length)
                self.metrics.read()
                self._seconds, self._started = self._elapsed(), None
                if complete:
                    self.epoch, self.batch = self.epoch + 1, 0
                    records.append(self._record(self._seconds, test))
                    self.records.append(records[-1])
                    self._tell("on_epoch_end", records[-1])
            if self._stop_requested:
                self._tell("on_interrupt")
        except NonFiniteLossError as error:
            raise self._diverged(error) from error
        finally:
            self._started = None
            self.interrupted, self._stop_requested = self._stop_requested, False
            self._tell("on_stop")
        return records

    def _train_epoch(self, batches: Iterator[Batch], length: int | None) -> bool:
        """Train on the batches of an epoch; return False if it was stopped before its end."""
        for inputs, targets in self.model.device.prefetch(checked(batches)):
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
        with naming_the_layer(self.model, len(inputs)):
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
        """Make `fit` return after the current step, or the next `fit` at once; may be called from a signal handler."""
        self._stop_requested = True

    def checkpoint(self, info: dict[str, Any] | None = None) -> Checkpoint:
        """Return a checkpoint from which training resumes with the same bits and records as without interruption.

        Gradients that `before_step` kept for the next batch are not included.

        Args:
            info: further entries for `Checkpoint.info`.

        Raises:
            TrainingDivergedError: if the loss or a weight is infinite or not a number.
        """
        kept: dict[str, Any] = {"records": self.records}
        try:
            if self.batch:
                kept["metrics"] = self.metrics.state() | {"steps": self._steps}
        except NonFiniteLossError as error:
            raise self._diverged(error) from error
        seconds = self._elapsed() if self.batch else 0.0
        steps = self.optimizer.steps
        kept["progress"] = {"epoch": self.epoch, "batch": self.batch, "step": steps, "seconds": seconds}
        model, optimizer = ({k: to_host(v) for k, v in x.state_dict().items()} for x in (self.model, self.optimizer))
        if fault := non_finite(model):
            rate = self.optimizer.learning_rate(max(0, steps - 1))
            raise TrainingDivergedError(f"{fault} after step {steps} (learning rate {rate:g})")
        return Checkpoint(model, optimizer, {**(info or {}), **kept})

    def resume(self, checkpoint: Checkpoint) -> None:
        """Load a checkpoint, so that `fit` continues with the next batch.

        Checkpoints before version 3 have neither records nor metrics: the record of an epoch that was interrupted
        is then of the rest of that epoch.

        Raises:
            CheckpointError: if it has no training progress.
            ValueError: if it belongs to another model, optimizer or metrics.
        """
        try:
            progress = checkpoint.info["progress"]
            epoch, batch, step = (int(progress[key]) for key in ("epoch", "batch", "step"))
            seconds = float(progress.get("seconds", 0))
            records = [checked_record(record) for record in checkpoint.info.get("records", [])]
            if not (0 <= epoch < 2**63 and 0 <= batch < 2**63 and 0 <= step < 2**63 and seconds >= 0):
                raise ValueError(f"expected numbers of at least 0, got {progress}")
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise CheckpointError(f"the checkpoint has no training progress to resume: {error!r}") from error
        metrics, steps = Metrics(self._functions), []
        if batch and (state := checkpoint.info.get("metrics")) is not None:
            try:
                metrics.load_state(state)
                steps = [int(number) for number in state["steps"]]
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise CheckpointError(f"the checkpoint's metrics cannot be resumed: {error}") from error
        self.model.load_state_dict(checkpoint.model)
        self.optimizer.load_state_dict({"steps": np.array(step), **checkpoint.optimizer})
        self.epoch, self.batch, self.records = epoch, batch, records
        self.metrics, self._steps, self._seconds = metrics, steps, seconds
        for _, module in self.model.named_modules():
            if isinstance(module, Dropout):
                module.calls = step

    def _elapsed(self) -> float:
        """Return the seconds spent on the current epoch."""
        return self._seconds + (0.0 if self._started is None else time.perf_counter() - self._started)

    def _diverged(self, error: NonFiniteLossError) -> TrainingDivergedError:
        step = self._steps[error.batch]
        rate = self.optimizer.learning_rate(step - 1)
        hint = ", or a label is none of the network's classes" if np.isnan(error.value) else ""
        return TrainingDivergedError(f"the loss became {error.value} at step {step} (learning rate {rate:g}{hint})")

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
        for inputs, targets in model.device.prefetch(checked(epoch_of(batches, 0, 0))):
            with naming_the_layer(model, len(inputs)):
                outputs = model(inputs)
                targets = loss.place(outputs, targets)
                found.update(loss(outputs, targets), outputs, targets)
    finally:
        model.train(training)
    found.read()
    return found
