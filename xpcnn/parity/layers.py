"""Comparing devices layer by layer: each layer is given the same input and the same gradient on every device.

So errors cannot propagate from layer to layer: rounding pushes no value across a ReLU's kink and changes no maximum
before it reaches a pooling layer. A layer that differs is itself at fault. This is what makes tight, derived tolerances
possible.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from .. import backend
from ..backend import Array, Device
from ..distributed import ALONE, Group
from ..nn import CrossEntropyLoss, Module
from ..nn.autocast import is_mixed
from .bounds import Bound, largest, layer_bounds
from .comparison import Comparison, compare
from .observe import LayerCall, LossCall, ObservedLoss, host_copy, observe, summed
from .tolerances import Precision, operand_tolerance, precision_of, tolerance


def compare_devices(
    model: Module, batch: tuple[Array, Array], devices: Sequence[Device | str], loss: Any = None
) -> list[Comparison]:
    """Compare one training step of a model on several devices with the first of them, layer by layer.

    Args:
        model: on any device; it is copied, and the copy is put into training mode.
        batch: the model's input and the loss's target, such as images `(N, C, H, W)` and labels `(N,)`.
        devices: at least two.
        loss: called with the model's output and the target, as in `Trainer`; None for cross-entropy.

    Inside `nn.autocast("mixed", device)` they are compared in mixed precision.

    Returns:
        for each further device, a comparison of each layer's forward and backward pass, of the loss's, and of the whole
        network's forward pass; the devices agree if `all(comparison.agrees for comparison in comparisons)`. Layers
        are the modules that hold no others; what a module computes around those it holds shows in the network's only.

    Raises:
        ValueError: if there are fewer than two devices, the model computed nothing that could be compared, or a layer
            declares an unknown arithmetic.
    """
    if len(devices) < 2:
        raise ValueError(f"comparing takes at least two devices, got {[str(device) for device in devices]}")
    first, *others = (backend.device(device) for device in devices)
    loss = CrossEntropyLoss() if loss is None else loss
    calls, loss_call = _observed_step(copy.deepcopy(model).to(first).train(), batch, loss)
    comparisons: list[Comparison] = []
    for device in others:
        layers = replay(copy.deepcopy(model).to(device).train(), calls, 1, device)
        # Each layer adds its relative error and passes on those before it at about their size.
        allowed = sum(comparison.tolerance for comparison in layers if comparison.direction == "forward")
        if is_mixed():
            allowed += operand_tolerance("mixed") * sum(call.arithmetic == "product" for call in calls)
        bounds = {"y": Bound(allowed, largest(loss_call.output))}
        # By another copy, as dropout and batch normalization have changed the first one.
        output = host_copy(copy.deepcopy(model).to(device).train()(device.asarray(batch[0])))
        comparisons += layers
        comparisons += replay_loss(loss_call, loss, device, 1)
        comparisons.append(
            compare("loss", "whole network", "forward", 1, {"y": output}, {"y": loss_call.output}, bounds)
        )
    return comparisons


def _observed_step(model: Module, batch: tuple[Array, Array], loss: Any) -> tuple[list[LayerCall], LossCall]:
    """Run one forward and backward pass; return what each layer and the loss did."""
    device, observed = model.device, ObservedLoss(loss)
    model.zero_grad()
    with observe(model) as calls:
        observed(model(device.asarray(batch[0])), device.asarray(batch[1]))
        model.backward(observed.backward(), input_gradient=False)
    if not calls:
        raise ValueError("the model computed nothing that could be compared")
    return calls, observed.call


def replay(
    model: Module, calls: Sequence[LayerCall], step: int, device: Device, group: Group = ALONE
) -> list[Comparison]:
    """Give each layer the inputs of its recorded calls, and compare what it computes from them.

    Args:
        model: in the mode of the recording, with the weights of the recorded step; its gradients are overwritten.
        calls: of the layers, in one step.
        step: its number, from 1.
        device: where the model is.
        group: the processes of which each computes its part of every batch.

    Raises:
        KeyError: if a call belongs to no layer of the model.
    """
    modules = dict(model.named_modules())
    comparisons = []
    for x, call in group.steps((call.x[group.part(len(call.x))], call) for call in calls):
        module = modules[call.name]
        parameters = module.own_parameters()
        precision: Precision = precision_of(call.y.dtype, device.tf32, is_mixed() and module.training)
        values = {name: host_copy(parameter.data) for name, parameter in parameters.items()}
        bounds = layer_bounds(call, values, precision)
        for parameter in parameters.values():
            parameter.grad = None
        found = {"y": group.concatenate(host_copy(module(device.asarray(x))))}
        comparisons.append(compare(call.name, call.kind, "forward", step, found, {"y": call.y}, bounds))
        if call.dy is None:
            module.forget()
            continue
        dy = device.asarray(call.dy[group.part(len(call.dy))])
        dx = module.backward(dy, input_gradient=call.dx is not None)
        found = {} if call.dx is None or dx is None else {"dx": group.concatenate(host_copy(dx))}
        found |= {name: summed(host_copy(p.grad), group) for name, p in parameters.items() if p.grad is not None}
        expected = {name: array for name, array in call.outputs() if name != "y"}
        if expected:
            comparisons.append(compare(call.name, call.kind, "backward", step, found, expected, bounds))
    return comparisons


def replay_loss(call: LossCall, loss: Any, device: Device, step: int, group: Group = ALONE) -> list[Comparison]:
    """Give a loss the recorded output and target, and compare its value and its gradient; after `replay`."""
    precision = precision_of(call.output.dtype)
    bounds = {
        "y": Bound(tolerance("loss", call.output.size, precision), max(1.0, largest(call.value))),
        "dx": Bound(tolerance("loss", call.output.shape[-1], precision), largest(call.gradient)),
    }
    part = group.part(len(call.output))
    value = summed(host_copy(loss(device.asarray(call.output[part]), device.asarray(call.target[part]))), group)
    gradient = group.concatenate(host_copy(loss.backward()))
    return [
        compare("loss", call.kind, "forward", step, {"y": value}, {"y": call.value}, bounds),
        compare("loss", call.kind, "backward", step, {"dx": gradient}, {"dx": call.gradient}, bounds),
    ]
