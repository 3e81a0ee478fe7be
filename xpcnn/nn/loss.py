"""Losses as objects: call one with a batch's outputs and targets, then ask it for the gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from .. import functional as F
from ..backend import Array, device_of
from .module import Cached, Module, Parameter
from .normalization import Normalization

Metric: TypeAlias = Callable[[Array, Array], Array]


class Loss(Cached):
    """A number to make smaller, the mean over a batch, and its gradient.

    A subclass defines `forward`, which calls `save_for_backward`, and `backward`, which calls `saved`; `xpcnn.nn` shows
    one. Targets may lie on the host, whichever device the output is on.

    Attributes:
        metrics: what is worth knowing beside the loss, by name: functions of output and target that return the sum over
            the batch of something measured for each sample, as a 0-d array.
    """

    metrics: Mapping[str, Metric] = {}
    _source = "a call of the loss"

    def __call__(self, output: Array, target: Array) -> Array:
        return self.forward(output, self.place(output, target))

    def place(self, output: Array, target: Array) -> Array:
        """Return the target on the output's device, after a look at its values where it lies on the host.

        Raises:
            ValueError: if it does not fit the output.
        """
        return device_of(output).asarray(target)

    def forward(self, output: Array, target: Array) -> Array:
        """Return the loss as a 0-d array on the output's device."""
        raise NotImplementedError

    def backward(self) -> Array:
        """Return the gradient of the last loss w.r.t. its output.

        Raises:
            RuntimeError: if there was no loss since the last gradient.
        """
        raise NotImplementedError


def correct(output: Array, target: Array) -> Array:
    """Return how many samples are classified correctly: scores `(N, classes)` are highest at the labels `(N,)`."""
    return (output.argmax(axis=1) == target).sum()


def binary_accuracy(output: Array, target: Array) -> Array:
    """Return the sum over the batch of each sample's fraction of logits on the right side of 0."""
    right = (output > 0) == (target > 0.5)
    return right.reshape(len(right), -1).mean(axis=1).sum()


class _LabelLoss(Loss):
    """A loss of scores `(N, classes)` and labels `(N,)`."""

    metrics: Mapping[str, Metric] = {"accuracy": correct}

    def place(self, output: Array, target: Array) -> Array:
        device = device_of(output)
        if device_of(target) is not device:
            F.check_labels(output, target)
        return device.asarray(target)


class CrossEntropyLoss(_LabelLoss):
    """Mean softmax cross-entropy of logits `(N, classes)` and integer labels `(N,)`, in nats.

    Args:
        weight: `(classes,)`, how much a sample of each class counts in the mean; None for all alike.
        label_smoothing: what part of each target is spread over all classes evenly.
    """

    def __init__(self, weight: Array | Sequence[float] | None = None, *, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.weight = weight
        self.label_smoothing = label_smoothing

    def forward(self, output: Array, target: Array) -> Array:
        if self.weight is not None:
            self.weight = device_of(output).asarray(self.weight, output.dtype)
        loss, cache = F.cross_entropy_forward(output, target, self.weight, label_smoothing=self.label_smoothing)
        self.save_for_backward(cache)
        return loss

    def backward(self) -> Array:
        return F.cross_entropy_backward(self.saved())


class HingeLoss(_LabelLoss):
    """Mean multi-class support vector loss of scores `(N, classes)` and integer labels `(N,)`, as in CS231n.

    For one sample it is `Σ max(0, s_j - s_label + margin)` over the wrong classes j. PyTorch's `MultiMarginLoss`
    divides that by the number of classes; this one does not.

    Args:
        margin: by how much the right score has to lead.
    """

    def __init__(self, margin: float = 1.0) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, output: Array, target: Array) -> Array:
        loss, cache = F.hinge_forward(output, target, margin=self.margin)
        self.save_for_backward(cache)
        return loss

    def backward(self) -> Array:
        return F.hinge_backward(self.saved())


class MSELoss(Loss):
    """Mean over all elements of the squared difference between two arrays of one shape, `(N, ...)`."""

    def forward(self, output: Array, target: Array) -> Array:
        loss, cache = F.mean_squared_error_forward(output, target)
        self.save_for_backward(cache)
        return loss

    def backward(self) -> Array:
        return F.mean_squared_error_backward(self.saved())


class BCEWithLogitsLoss(Loss):
    """Mean over all elements of the binary cross-entropy between logits and probabilities, both `(N, ...)`."""

    metrics: Mapping[str, Metric] = {"accuracy": binary_accuracy}

    def forward(self, output: Array, target: Array) -> Array:
        loss, cache = F.binary_cross_entropy_forward(output, target)
        self.save_for_backward(cache)
        return loss

    def backward(self) -> Array:
        return F.binary_cross_entropy_backward(self.saved())


class L2Penalty(Loss):
    """A loss plus `0.5·strength·Σw²` over a model's weights, to be used in that loss's place.

    Biases are left alone, and so is what normalisation layers scale by. `backward` also adds `strength·w` to the
    gradients of the weights; so it comes after `zero_grad`, as a backward pass does.

    Args:
        loss: the loss to add to.
        model: whose weights are to be kept small.
        strength: of the penalty, at least 0.
    """

    def __init__(self, loss: Loss, model: Module, strength: float) -> None:
        super().__init__()
        if strength < 0:
            raise ValueError(f"strength must be at least 0, got {strength}")
        self.loss, self.model, self.strength = loss, model, strength
        self.metrics = loss.metrics

    def place(self, output: Array, target: Array) -> Array:
        return self.loss.place(output, target)

    def forward(self, output: Array, target: Array) -> Array:
        value = self.loss(output, target)
        for weight in self._weights():
            value = value + 0.5 * self.strength * (weight.data * weight.data).sum()
        return value

    def backward(self) -> Array:
        """Add the penalty's gradient to the weights', and return the gradient of the last loss by its output."""
        gradient = self.loss.backward()
        for weight in self._weights():
            weight.add_gradient(self.strength * weight.data)
        return gradient

    def _weights(self) -> list[Parameter]:
        modules = [module for _, module in self.model.named_modules() if not isinstance(module, Normalization)]
        return [weight for module in modules if isinstance(weight := vars(module).get("weight"), Parameter)]
