"""Losses as objects: call one with a batch's outputs and targets, then its `backward` for the gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from .. import functional as F
from ..backend import Array, device_of
from .module import Cached, Module, Parameter
from .normalization import Normalization

Metric: TypeAlias = Callable[[Array, Array], Array]


class Loss(Cached):
    """Base class of losses: a mean over the batch to minimise, and its gradient.

    A subclass defines `forward`, which calls `save_for_backward`, and `backward`, which calls `saved`; `xpcnn.nn` shows
    one. Targets may be on the host, whichever device the output is on.

    Attributes:
        metrics: what a trainer reports beside the loss, by name: functions of output and target that return the sum
            over the batch of a number per sample, as a 0-d array.
    """

    metrics: Mapping[str, Metric] = {}
    _source = "a call of the loss"

    def __call__(self, output: Array, target: Array) -> Array:
        return self.forward(output, self.place(output, target))

    def place(self, output: Array, target: Array) -> Array:
        """Return the target on the output's device; on the host, its values are checked first.

        Args:
            output: of the network, `(N, ...)`.
            target: an array of any device.

        Raises:
            ValueError: if it does not fit the output.
        """
        return device_of(output).asarray(target)

    def forward(self, output: Array, target: Array) -> Array:
        """Return the loss as a 0-d array on the output's device; both arguments are on that device."""
        raise NotImplementedError

    def backward(self) -> Array:
        """Return the gradient of the last loss w.r.t. the network's output, in its shape.

        Raises:
            RuntimeError: if there was no loss since the last gradient.
        """
        raise NotImplementedError


def correct(output: Array, target: Array) -> Array:
    """Return the number of samples classified correctly, from scores `(N, classes)` and labels `(N,)`."""
    return (output.argmax(axis=1) == target).sum()


def binary_accuracy(output: Array, target: Array) -> Array:
    """Return the sum over the batch of each sample's fraction of logits on the correct side of 0."""
    matches = (output > 0) == (target > 0.5)
    return matches.reshape(len(matches), -1).mean(axis=1).sum()


class _LabelLoss(Loss):
    """Base class of losses of scores `(N, classes)` and labels `(N,)`."""

    metrics: Mapping[str, Metric] = {"accuracy": correct}

    def place(self, output: Array, target: Array) -> Array:
        return self._place(output, target)

    def _place(self, output: Array, target: Array, ignore_index: int | None = None) -> Array:
        device = device_of(output)
        if device_of(target) is not device:
            F.check_labels(output, target, ignore_index)
        return device.asarray(target)


class CrossEntropyLoss(_LabelLoss):
    """Mean softmax cross-entropy of logits `(N, classes)` and integer labels `(N,)`, in nats.

    Args:
        weight: `(classes,)`, the weight of each class in the mean; None for equal weights.
        ignore_index: samples with this label are left out of the mean, and their gradient is 0. They still count in
            the average of `metrics`, as not classified correctly.
        label_smoothing: the part of each target that is spread evenly over all classes, in `[0, 1]`.
    """

    def __init__(
        self,
        weight: Array | Sequence[float] | None = None,
        *,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.weight = weight
        self.ignore_index, self.label_smoothing = ignore_index, label_smoothing

    def place(self, output: Array, target: Array) -> Array:
        return self._place(output, target, self.ignore_index)

    def forward(self, output: Array, target: Array) -> Array:
        if self.weight is not None:
            self.weight = device_of(output).asarray(self.weight, output.dtype)
        options: dict[str, Any] = {"ignore_index": self.ignore_index, "label_smoothing": self.label_smoothing}
        loss, cache = F.cross_entropy_forward(output, target, self.weight, **options)
        self.save_for_backward(cache)
        return loss

    def backward(self) -> Array:
        return F.cross_entropy_backward(self.saved())


class HingeLoss(_LabelLoss):
    """Mean multi-class support vector loss of scores `(N, classes)` and integer labels `(N,)`, as in CS231n.

    For one sample it is `Σ max(0, s_j - s_label + margin)` over the wrong classes j. PyTorch's `MultiMarginLoss`
    divides that by the number of classes; this one does not.

    Args:
        margin: by how much the label's score has to exceed the others for a loss of 0.
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
    """Mean over all elements of the squared difference between two arrays of the same shape, `(N, ...)`."""

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
    """A loss plus `0.5·strength·Σw²` over a model's weights, used in place of that loss.

    Biases and the weights of normalisation layers are not penalised. `backward` also adds `strength·w` to the gradients
    w.r.t. the weights, so call it after `zero_grad`.

    Args:
        loss: the loss to add to.
        model: the module whose weights are penalised.
        strength: of the penalty, at least 0.

    Raises:
        ValueError: if the strength is negative.
    """

    def __init__(self, loss: Loss, model: Module, strength: float) -> None:
        super().__init__()
        if strength < 0:
            raise ValueError(f"strength must be at least 0, got {strength}")
        self.loss, self.model, self.strength = loss, model, float(strength)
        self.metrics = loss.metrics

    def place(self, output: Array, target: Array) -> Array:
        return self.loss.place(output, target)

    def forward(self, output: Array, target: Array) -> Array:
        value = self.loss(output, target)
        for weight in self._weights():
            value = value + 0.5 * self.strength * (weight.data * weight.data).sum()
        return value

    def backward(self) -> Array:
        """Add the penalty's gradient to the weights'; return the gradient of the last loss w.r.t. the output."""
        gradient = self.loss.backward()
        for weight in self._weights():
            weight.add_gradient(self.strength * weight.data)
        return gradient

    def _weights(self) -> list[Parameter]:
        modules = [module for _, module in self.model.named_modules() if not isinstance(module, Normalization)]
        weights = [weight for module in modules if isinstance(weight := vars(module).get("weight"), Parameter)]
        return list({id(weight): weight for weight in weights}.values())  # a tied one once
