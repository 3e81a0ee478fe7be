"""The training loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from typing import Any

import numpy as np

from ..backend import Array, HostArray
from ..data import DataSpec, Loader
from ..data.rows import Rows
from ..distributed import ALONE, Group
from ..nn import CrossEntropyLoss, Dropout, GroupLoss, Loss, Module, average_statistics, synchronize
from ..nn.autocast import autocast, check_precision
from ..nn.loss import Metric
from ..optim import GradScaler, Optimizer
from .batches import Batch, Batches, check_batch, check_same_data, checked, epoch_of
from .callbacks import Callback, Record
from .checkpoint import Checkpoint, CheckpointError, non_finite, on_host
from .ema import EMA
from .evaluation import best_record, evaluate
from .metrics import Metrics, NonFiniteLossError
from .out_of_memory import naming_the_layer
from .predict import predict
from .progress import Progress
from .replays import Compute, Outcome, Replays


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
        before_step: called with the optimizer between the backward pass and the step: the place to clip gradients. If
            it returns False, the step is skipped and the next batch adds to the gradients.
        group: the processes that train together, each with a trainer of its own. They make the steps of one process:
            each takes its part of every batch, and gradients are summed over all of them before `before_step`. All
            methods are collective but `checkpoint`, `predict` and `stop`.
        local_batch_norm: with several processes, normalise each one's part of a batch by its own statistics.
        precision: of matrix products and convolutions in training, as in `nn.autocast`: `"float32"`, `"tf32"` or
            `"mixed"`, which scales the loss by a `GradScaler`.
        ema: the decay of the `EMA` of the weights; None for none. With it, evaluation, predictions and checkpoints are
            of the averaged weights, which the model has between calls of `fit`; training goes on with its own.
        cuda_graph: record the step of each epoch's batches once, as a CUDA graph, and replay it: see `fit`. Without
            effect on the CPU.

    Attributes:
        epoch: how many epochs are complete.
        batch: how many batches of the current epoch are done.
        metrics: those of the current epoch, or of the last one.
        records: of all complete epochs, including those before the run was resumed.
        best_weights: the model's state after the best epoch, on the host; empty without validation.
        spec: of the training images, which `predict` needs; None until `fit` is given a `Loader`.
        interrupted: whether the last `fit` returned because `stop` was called.
        scaler: of the loss; None unless the precision is `"mixed"`.
        complete: whether the last `fit` left no epoch to train: all are done, or patience ran out.

    Raises:
        ValueError: if the optimizer has a parameter that is not one of the model's, or `cuda_graph` is asked for with
            several processes.

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
        group: Group = ALONE,
        local_batch_norm: bool = False,
        precision: str = "float32",
        ema: float | None = None,
        cuda_graph: bool = False,
    ) -> None:
        if cuda_graph and group.size > 1:
            raise ValueError("a CUDA graph is for one process: the sums over several are not recorded")
        own = {id(parameter) for parameter in model.parameters()}
        other = next((name for name, parameter in optimizer.parameters.items() if id(parameter) not in own), None)
        if other is not None:
            raise ValueError(
                f"the optimizer belongs to another model: its parameter {other!r} is not one of this model's"
            )
        self.model = synchronize(model, group, local_batch_norm=local_batch_norm)
        self.optimizer, self.before_step, self.group = optimizer, before_step, group
        self.loss = GroupLoss.of(CrossEntropyLoss() if loss is None else loss, group)
        self.precision = check_precision(precision)
        self.scaler = GradScaler() if precision == "mixed" else None
        self.ema = EMA(self.model, ema)
        self.callbacks = list(callbacks)
        self.epoch = self.batch = 0
        self.records: list[Record] = []
        self.best_weights: dict[str, HostArray] = {}
        self.spec: DataSpec | None = None
        self._functions = self.loss.metrics if metrics is None else metrics
        self.metrics = Metrics(self._functions, group)
        self._steps: list[int] = []  # the step of each batch of the metrics
        self._seconds = 0.0  # spent on the current epoch before `_started`
        self._started: float | None = None
        self._keep_gradients = False
        self._cuda_graph = cuda_graph
        self.interrupted = self.complete = self._stop_requested = False

    @property
    def best(self) -> Record | None:
        """The record of the best epoch, the one with the lowest validation loss; None without validation."""
        return best_record(self.records)

    def fit(
        self,
        batches: Batches,
        epochs: int,
        test: Batches | None = None,
        *,
        validation: Batches | None = None,
        patience: int | None = None,
    ) -> list[Record]:
        """Train until `epochs` epochs are complete, and return the record of each epoch trained by this call.

        With `cuda_graph`, the second step of an epoch prepares the graph, the third one records it, and all others
        replay it; batches of another shape have their own. What the host does in a step is then not repeated: layers
        and losses of one's own must not count, read values of the GPU, or multiply matrices by other means than
        `Device.matmul`, and what a callback changes during an epoch, beyond the optimizer's options, counts from the
        next one. With `before_step` the optimizer's step is not part of the graph.

        With `validation` the weights of the best epoch are kept, in `best_weights`. The model has those of the last
        epoch until `restore_best` is called.

        Args:
            batches: a `Loader`, or anything to iterate over once for each epoch, such as a list of pairs of inputs and
                targets; they may lie on the host. Each process of a group takes its part of them, unless a loader of
                the same group yields only that.
            epochs: in total, including those before the run was resumed.
            test: batches to evaluate on after each epoch.
            validation: batches to evaluate on after each epoch, by whose loss the best one is chosen.
            patience: stop early when so many epochs were no better than the best one; it needs `validation`.

        Raises:
            TrainingDivergedError: if the loss or a weight became infinite or not a number.
            MemoryError: if there is not enough memory; the message names the layer and the batch size.
            DeviceFailedError: if the step cannot be a CUDA graph.
            ValueError: if there are no batches, one does not fit the model, patience is below 1 or lacks validation, or
                the loader of the test or validation images has other classes, or another mean or std, than that of
                the training images.
        """
        if patience is not None and (patience < 1 or validation is None):
            raise ValueError(f"patience must be at least 1 and needs validation batches, got {patience!r}")
        parts = {name: part for name, part in (("validation", validation), ("test", test)) if part is not None}
        for name, part in parts.items():
            check_same_data(batches, part, name)
        if isinstance(batches, Loader):
            self.spec = batches.spec
        # An overflow is reported once, below, with its step, rather than by NumPy in each layer.
        with np.errstate(over="ignore", invalid="ignore"):
            return self._fit(batches, epochs, parts, patience)

    def _fit(self, batches: Batches, epochs: int, parts: Mapping[str, Batches], patience: int | None) -> list[Record]:
        records = []
        length = len(batches) if isinstance(batches, Sized) else None
        try:
            while not (self._is_complete(epochs, patience) or self._stops()):
                if not self.batch:  # else a resumed epoch, whose metrics continue
                    self.metrics, self._steps, self._seconds = Metrics(self._functions, self.group), [], 0.0
                self._started = time.perf_counter()
                self._tell("on_epoch_start", self.epoch + 1, epochs, length)
                self.ema.restore()
                self.model.train()
                with autocast(self.precision, self.model.device):
                    complete = self._train_epoch(epoch_of(batches, self.epoch, self.batch, self.group), length)
                self.metrics.read()
                self._seconds, self._started = self._elapsed(), None
                self.ema.apply()
                if complete:
                    self.epoch, self.batch = self.epoch + 1, 0
                    records.append(self._record(self._seconds, parts))
                    self.records.append(records[-1])
                    if self.best is records[-1]:
                        self.best_weights = on_host(self.model.state_dict())
                    self._tell("on_epoch_end", records[-1])
            if self._stops():
                self._tell("on_interrupt")
        except NonFiniteLossError as error:
            raise self._diverged(error) from error
        finally:
            self._started = None
            self.interrupted, self._stop_requested = self._stop_requested, False
            self.complete = self._is_complete(epochs, patience)
            self._tell("on_stop")
        return records

    def _stops(self) -> bool:
        """Return whether `stop` was called, on whichever process."""
        self._stop_requested = self.group.any(self._stop_requested)
        return self._stop_requested

    def _is_complete(self, epochs: int, patience: int | None) -> bool:
        """Return whether all epochs are trained, or `patience` of them since the best one."""
        since_best = 0 if self.best is None else self.epoch - self.best["epoch"]
        return self.epoch >= epochs or (patience is not None and since_best >= patience)

    def _train_epoch(self, batches: Iterator[Batch], length: int | None) -> bool:
        """Train on the batches of an epoch; return False if it was stopped before its end."""
        on_device = self.model.device.prefetch(checked(batches))
        # New in each epoch, as callbacks may have changed anything in between.
        compute = Replays(self._compute, self.loss.place).step if self._cuda_graph else self._compute
        for inputs, targets in self.group.steps(on_device, lambda: self._stop_requested):
            self._train_step(inputs, targets, self._compute if self._keep_gradients else compute)
            self.batch += 1
            self._tell("on_step", self.metrics)
        if self._stops():
            return self.batch == length
        if not self.batch:
            raise ValueError("there are no batches: an iterator yields them only once; pass a list or a Loader")
        return True

    def train_step(self, inputs: Array, targets: Array) -> None:
        """Train on one batch, which may be on the host; of a group, on this process's part of it.

        Raises:
            ValueError: if the batch does not fit the model, or holds values that are not finite.
        """
        check_batch(inputs, targets)
        device = self.model.device
        self.ema.restore()
        with autocast(self.precision, device):
            for images, labels in self.group.steps([(device.asarray(inputs), targets)]):
                self._train_step(images, labels, self._compute)

    def _train_step(self, inputs: Array, targets: Array, compute: Compute) -> None:
        with naming_the_layer(self.model, len(inputs)):
            step = self.optimizer.steps + 1
            loss, outputs, targets = compute(inputs, targets)
            if self.before_step is not None:
                self.update()
            self._steps.append(step)
            self.metrics.update(loss, outputs, targets)

    def _compute(self, inputs: Array, targets: Array) -> Outcome:
        """Compute what of a step is recorded: the gradients, and without `before_step` the update."""
        outputs = self.model(inputs)
        targets = self.loss.place(outputs, targets)
        loss = self.loss(outputs, targets)
        if not self._keep_gradients:
            self.optimizer.zero_grad()
        dy = self.loss.backward()
        self.model.backward(dy if self.scaler is None else self.scaler.scale(dy), input_gradient=False)
        self._sum_over_group()
        if self.before_step is None:
            self.update()
        else:
            self.optimizer.gather()  # to the arrays that the update reads
        return loss, outputs, targets

    def _sum_over_group(self) -> None:
        """Replace the gradients by their sums over all processes, and local running averages by their means."""
        if self.group.size > 1:
            self.group.sum(*self.optimizer.gather())
            average_statistics(self.model, self.group)

    def update(self) -> None:
        """Take the optimizer's step with the gradients of a backward pass, unless `before_step` returns False."""
        if self.scaler is not None:
            self.scaler.unscale(self.optimizer)
        self._keep_gradients = self.before_step is not None and self.before_step(self.optimizer) is False
        if self.scaler is not None:
            (self.scaler.rescale if self._keep_gradients else self.scaler.step)(self.optimizer)
        elif not self._keep_gradients:
            self.optimizer.step()
        if not self._keep_gradients:
            self.ema.update()
        elif self.group.rank:  # the sum so far is added to the next one by process 0 alone
            for gradients in self.optimizer.gather():
                gradients.fill(0)

    def predict(self, images: Array | Rows, batch_size: int = 256) -> HostArray:
        """Return the probability of each class for each image, `(N, classes)`.

        Args:
            images: `(N, C, H, W)` or `(N, H, W)`, any number of them, with pixels as in the training set: they are
                normalised as the training images were.
            batch_size: images in one forward pass, which bounds the memory.

        Raises:
            ValueError: if the images are of another shape or kind, or `fit` was not given a `Loader`.
        """
        if self.spec is None:
            raise ValueError("the data are not known: fit was given no Loader; use xpcnn.training.predict")
        with self.ema.applied():
            return predict(self.model, images, self.spec, batch_size=batch_size)

    def evaluate(self, batches: Batches, part: str = "test") -> dict[str, float]:
        """Return the loss and the metrics of the model on batches, by name.

        Args:
            batches: see `fit`; of a `Loader`, its first epoch.
            part: what the images are, for the message of an error.

        Raises:
            TrainingDivergedError: if the loss is infinite or not a number.
        """
        try:
            with self.ema.applied():
                return evaluate(self.model, batches, self.loss, self._functions, self.group).averages()
        except NonFiniteLossError as error:
            raise TrainingDivergedError(f"the {part} loss became {error.value} {self._place()}") from error

    def restore_best(self) -> None:
        """Load the weights of the best epoch into the model. Training that continues starts from them.

        Raises:
            ValueError: if there are none, as no epoch was trained with validation.
        """
        if not self.best_weights:
            raise ValueError("there is no best epoch: fit was given no validation batches")
        self.model.load_state_dict(self.best_weights)
        self.ema.reset()

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
        steps, seconds = self.optimizer.steps, self._elapsed() if self.batch else 0.0
        kept = Progress(self.epoch, self.batch, steps, seconds, self.records, self.spec, self.ema.steps).to_info()
        kept["frozen"] = self.model.frozen_modules
        try:
            if self.batch:
                kept["metrics"] = self.metrics.state() | {"steps": self._steps}
        except NonFiniteLossError as error:
            raise self._diverged(error) from error
        if self.scaler is not None:
            kept["loss_scale"] = self.scaler.state_dict()
        model, optimizer = on_host(self.ema.training_state()), on_host(self.optimizer.state_dict())
        training = {}
        if self.ema.decay is not None:
            training, model = model, model | on_host(self.ema.state_dict())
        if fault := non_finite(model):
            raise TrainingDivergedError(f"{fault} {self._place()}")
        return Checkpoint(model, optimizer, {**(info or {}), **kept}, self.best_weights, training)

    def resume(self, checkpoint: Checkpoint) -> None:
        """Load a checkpoint, so that `fit` continues with the next batch.

        Checkpoints before version 3 have neither records nor metrics: the record of an epoch that was interrupted
        is then of the rest of that epoch.

        Raises:
            CheckpointError: if it has no training progress.
            ValueError: if it belongs to another model, optimizer or metrics, or to training with an EMA where this has
                none, or the other way round.
        """
        progress = Progress.from_info(checkpoint.info)
        if (self.ema.decay is None) != (not checkpoint.training):
            raise ValueError(f"the checkpoint has {'no ' * (not checkpoint.training)}averaged weights, of an EMA")
        if (best_record(progress.records) is None) != (not checkpoint.best):
            raise CheckpointError("the checkpoint has no training progress to resume: best weights without a record")
        metrics, steps = Metrics(self._functions, self.group), []
        if progress.batch and (state := checkpoint.info.get("metrics")) is not None:
            try:
                metrics.load_state(state)
                steps = [int(number) for number in state["steps"]]
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise CheckpointError(f"the checkpoint's metrics cannot be resumed: {error}") from error
        self._freeze(checkpoint.info.get("frozen", self.model.frozen_modules))
        if self.scaler is not None and "loss_scale" in checkpoint.info:
            try:
                self.scaler.load_state_dict(checkpoint.info["loss_scale"])
            except ValueError as error:
                raise CheckpointError(f"the checkpoint's loss scale cannot be resumed: {error}") from error
        # Those before the last are checked by loading them.
        for state in filter(None, (checkpoint.best, checkpoint.model, checkpoint.training)):
            self.model.load_state_dict(state)
        self.ema.load(checkpoint.model, progress.ema_steps)
        self.optimizer.load_state_dict({"steps": np.array(progress.step), **checkpoint.optimizer})
        self.epoch, self.batch, self._seconds = progress.epoch, progress.batch, progress.seconds
        self.records, self.spec, self.best_weights = progress.records, progress.spec, dict(checkpoint.best)
        self.metrics, self._steps = metrics, steps
        for _, module in self.model.named_modules():
            if isinstance(module, Dropout):
                module.calls = progress.step

    def _freeze(self, names: Any) -> None:
        """Freeze the modules that a checkpoint names, and no others."""
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise CheckpointError(f"the checkpoint's frozen modules are not a list of names: {names!r:.60}")
        self.model.frozen_modules = names

    def _elapsed(self) -> float:
        """Return the seconds spent on the current epoch."""
        return self._seconds + (0.0 if self._started is None else time.perf_counter() - self._started)

    def _place(self) -> str:
        steps = self.optimizer.steps
        return f"after step {steps} (learning rate {self.optimizer.learning_rate(max(0, steps - 1)):g})"

    def _diverged(self, error: NonFiniteLossError) -> TrainingDivergedError:
        step = self._steps[error.batch]
        rate = self.optimizer.learning_rate(step - 1)
        hint = ", or a label is none of the network's classes" if np.isnan(error.value) else ""
        return TrainingDivergedError(f"the loss became {error.value} at step {step} (learning rate {rate:g}{hint})")

    def _record(self, seconds: float, parts: Mapping[str, Batches]) -> Record:
        record: Record = {"epoch": self.epoch, "step": self.optimizer.steps}
        record |= {f"train_{name}": value for name, value in self.metrics.averages().items()}
        record["learning_rate"] = self.optimizer.learning_rate(self.optimizer.steps - 1)
        record |= {"seconds": seconds, "images_per_second": self.metrics.samples / seconds}
        for part, batches in parts.items():
            record |= {f"{part}_{name}": value for name, value in self.evaluate(batches, part).items()}
        return record

    def _tell(self, event: str, *values: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(*values)
