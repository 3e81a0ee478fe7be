"""Observing a training step: what each layer and the loss were given and what they returned, copied to the host."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from ..backend import Array, HostArray, to_host
from ..nn.loss import Loss
from ..nn.module import Arithmetic, Module


@dataclass
class LayerCall:
    """What one layer did in a training step.

    Attributes:
        name: the layer's dotted name in the model.
        kind: its class's name.
        arithmetic: how it computes, as the layer declares it; see `xpcnn.nn.Module`.
        x, y: its input and output.
        dy, dx: the gradients w.r.t. output and input; None without a backward pass, or where `dx` was not needed.
        gradients: w.r.t. its parameters, by name.
    """

    name: str
    kind: str
    arithmetic: Arithmetic
    x: HostArray
    y: HostArray
    dy: HostArray | None = None
    dx: HostArray | None = None
    gradients: dict[str, HostArray] = field(default_factory=dict)

    def outputs(self) -> Iterator[tuple[str, HostArray]]:
        """Yield the arrays that the layer computed: `"y"`, `"dx"`, and gradients under their parameters' names."""
        yield "y", self.y
        if self.dx is not None:
            yield "dx", self.dx
        yield from self.gradients.items()


@dataclass
class LossCall:
    """What the loss did in a training step.

    Attributes:
        kind: its class's name.
        output: the network's, such as logits.
        target: what the output is compared with, such as labels.
        value: the loss, 0-d.
        gradient: of the loss w.r.t. the output.
    """

    kind: str
    output: HostArray
    target: HostArray
    value: HostArray
    gradient: HostArray

    def outputs(self) -> Iterator[tuple[str, HostArray]]:
        """Yield the arrays that the loss computed, under a layer's names for output and input gradient."""
        yield "y", self.value
        yield "dx", self.gradient


class ObservedLoss(Loss):
    """A wrapper around a loss that keeps a record of its last call.

    Attributes:
        call: what the loss did last; set by `backward`.
    """

    call: LossCall

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        self._loss, self.metrics = loss, loss.metrics

    def place(self, output: Array, target: Array) -> Array:
        return self._loss.place(output, target)

    def forward(self, output: Array, target: Array) -> Array:
        value = self._loss(output, target)
        self._forward = host_copy(output), host_copy(target), host_copy(value)
        return value

    def backward(self) -> Array:
        gradient = self._loss.backward()
        self.call = LossCall(type(self._loss).__name__, *self._forward, host_copy(gradient))
        return gradient


@contextmanager
def observe(model: Module) -> Iterator[list[LayerCall]]:
    """Record every call of the model's leaf modules inside the block, in the order of their forward passes.

    Each call waits for the device and copies its arrays to the host, which is slow.
    """
    calls: list[LayerCall] = []
    watched = list(model.named_leaves())
    for name, module in watched:
        # An attribute of the instance hides the method of the class, until it is deleted.
        latest: list[LayerCall] = []
        vars(module)["forward"] = _recording_forward(name, module, module.forward, calls, latest)
        vars(module)["backward"] = _recording_backward(module, module.backward, latest)
    try:
        yield calls
    finally:
        for _, module in watched:
            del vars(module)["forward"], vars(module)["backward"]


def host_copy(array: Array) -> HostArray:
    """Return a copy of an array on the host."""
    return np.array(to_host(array))


def _recording_forward(
    name: str, module: Module, forward: Callable[[Array], Array], calls: list[LayerCall], latest: list[LayerCall]
) -> Callable[[Array], Array]:
    def recording(x: Array) -> Array:
        before = host_copy(x)
        y = forward(x)
        call = LayerCall(name, type(module).__name__, module.arithmetic, before, host_copy(y))
        calls.append(call)
        latest[:] = [call]
        return y

    return recording


def _recording_backward(
    module: Module, backward: Callable[..., Array | None], latest: list[LayerCall]
) -> Callable[..., Array | None]:
    def recording(dy: Array, *, input_gradient: bool = True) -> Array | None:
        before = host_copy(dy)
        dx = backward(dy, input_gradient=input_gradient)
        for call in latest:
            call.dy, call.dx = before, host_copy(dx) if input_gradient and dx is not None else None
            parameters = module.own_parameters().items()
            call.gradients = {name: host_copy(p.grad) for name, p in parameters if p.grad is not None}
        return dx

    return recording
