"""Evaluation: the loss and metrics of a model on batches, and which epoch was the best by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..nn import CrossEntropyLoss, Loss, Module
from ..nn.loss import Metric
from .batches import Batches, checked, epoch_of
from .callbacks import Record
from .metrics import Metrics
from .out_of_memory import naming_the_layer


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


def best_record(records: Sequence[Record]) -> Record | None:
    """Return the record of the best epoch: the first with the lowest `validation_loss`; None if no record has one.

    The loss decides, not the accuracy: it is measured for every task, and on few images accuracies are often equal.
    """
    validated = [record for record in records if "validation_loss" in record]
    return min(validated, key=lambda record: record["validation_loss"], default=None)
