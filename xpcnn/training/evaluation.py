"""Evaluation: the loss and metrics of a model on batches, and which epoch was the best by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..distributed import ALONE, Group
from ..nn import CrossEntropyLoss, GroupLoss, Loss, Module
from ..nn.loss import Metric
from .batches import Batches, checked, epoch_of
from .callbacks import Record
from .metrics import Metrics
from .out_of_memory import naming_the_layer


def evaluate(
    model: Module,
    batches: Batches,
    loss: Loss | None = None,
    metrics: Mapping[str, Metric] | None = None,
    group: Group = ALONE,
) -> Metrics:
    """Return the loss and metrics of a model, computed in evaluation mode; its mode is restored afterwards.

    Args:
        model, loss, metrics: see `Trainer`.
        batches: see `Trainer.fit`; of a `Loader`, its first epoch.
        group: the processes that share the batches; all of them have to call this.
    """
    loss = GroupLoss.of(CrossEntropyLoss() if loss is None else loss, group)
    training = model.training
    found = Metrics(loss.metrics if metrics is None else metrics, group)
    model.eval()
    try:
        for inputs, targets in group.steps(model.device.prefetch(checked(epoch_of(batches, 0, 0, group)))):
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
