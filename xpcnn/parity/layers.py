"""Comparing devices layer by layer: each layer is given the very same input and gradient on every device.

Fed this way an error cannot travel: no value near zero changes sides before a ReLU, no tie is broken elsewhere before
a max pooling, and a layer that differs is itself at fault. That is what makes tight, derived tolerances possible.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import backend
from ..backend import Array, Device
from ..nn import CrossEntropyLoss, Module
from .bounds import Bound, largest, layer_bounds
from .comparison import Row, make_row
from .observe import LayerCall, host_copy, observe
from .tolerances import Precision, precision_of, tolerance


def compare_devices(
    model: Module, batch: tuple[Array, Array], devices: Sequence[Device | str], loss: Any = None
) -> list[Row]:
    """Compare one training step of a model on several devices with the first of them, layer by layer.

    Args:
        model: in training mode or not, on any device; it is copied.
        batch: images and labels, or whatever model and loss take.
        devices: at least two.
        loss: as `Trainer` takes it; cross-entropy if None.

    Returns:
        for each further device, rows for each layer's forward and backward pass, for the loss, and one for the whole
        network's forward pass; they agree if `all(row.agrees for row in rows)`.

    Raises:
        ValueError: if there are fewer than two devices, the model computed nothing that could be compared, or a layer
            declares an unknown arithmetic.
    """
    if len(devices) < 2:
        raise ValueError(f"comparing takes at least two devices, got {[str(device) for device in devices]}")
    first, *others = (backend.device(device) for device in devices)
    calls, head = observed_step(copy.deepcopy(model).to(first).train(), batch, loss)
    rows: list[Row] = []
    for device in others:
        replica = copy.deepcopy(model).to(device).train()
        found = replay(replica, calls, 1, device)
        logits = host_copy(copy.deepcopy(model).to(device).train()(device.asarray(batch[0])))
        # Layers pass relative errors on at about their size, so that they add up.
        allowed = sum(row.tolerance for row in found if row.direction == "forward")
        rows += found
        rows += replay_loss(head, device, 1, loss)
        rows.append(
            make_row(
                head.name,
                "whole network",
                "forward",
                1,
                {"y": logits},
                {"y": head.x},
                {"y": Bound(allowed, largest(head.x))},
            )
        )
    if not rows:
        raise ValueError("the model computed nothing that could be compared")
    return rows


def observed_step(model: Module, batch: tuple[Array, Array], loss: Any = None) -> tuple[list[LayerCall], LayerCall]:
    """Run one forward and backward pass; return what each layer did, and what the loss did as one more call."""
    device = model.device
    loss = CrossEntropyLoss() if loss is None else loss
    model.zero_grad()
    with observe(model) as calls:
        logits = model(device.asarray(batch[0]))
        value = loss(logits, device.asarray(batch[1]))
        gradient = loss.backward()
        model.backward(gradient, input_gradient=False)
    if not calls:
        raise ValueError("the model computed nothing that could be compared")
    # The loss's labels take the place of the gradient that a layer is given.
    labels = np.asarray(host_copy(batch[1]))
    head = LayerCall("loss", type(loss).__name__, "reduction", host_copy(logits), host_copy(value), labels)
    head.dx = host_copy(gradient)
    return calls, head


def replay(model: Module, calls: Sequence[LayerCall], step: int, device: Device) -> list[Row]:
    """Give each layer of a model in training mode the inputs of recorded calls, and compare what it makes of them.

    The model's weights are those of the recorded step; its gradients are overwritten.

    Raises:
        KeyError: if a call belongs to no layer of the model.
    """
    modules = dict(model.named_modules())
    rows = []
    for call in calls:
        module = modules[call.name]
        parameters = module.own_parameters()
        precision: Precision = precision_of(call.y.dtype, device.tf32)
        values = {name: host_copy(parameter.data) for name, parameter in parameters.items()}
        bounds = layer_bounds(call, values, precision)
        for parameter in parameters.values():
            parameter.grad = None
        found = {"y": host_copy(module(device.asarray(call.x)))}
        rows.append(make_row(call.name, call.kind, "forward", step, found, {"y": call.y}, bounds))
        if call.dy is None:
            module.forget()
            continue
        dx = module.backward(device.asarray(call.dy), input_gradient=call.dx is not None)
        found = {} if call.dx is None else {"dx": host_copy(dx)}
        found |= {name: host_copy(p.grad) for name, p in parameters.items() if name in call.gradients}
        expected = {name: array for name, array in call.outputs() if name != "y"}
        if expected:
            rows.append(make_row(call.name, call.kind, "backward", step, found, expected, bounds))
    return rows


def replay_loss(head: LayerCall, device: Device, step: int, loss: Any = None) -> list[Row]:
    """Compare the loss and its gradient on recorded outputs."""
    loss = CrossEntropyLoss() if loss is None else loss
    precision = precision_of(head.x.dtype, False)
    value = host_copy(loss(device.asarray(head.x), device.asarray(head.dy)))
    assert head.dx is not None
    bounds = {
        "y": Bound(tolerance("loss", head.x.size, precision), max(1.0, largest(head.y))),
        "dx": Bound(tolerance("loss", head.x.shape[-1], precision), largest(head.dx)),
    }
    gradient = {"dx": host_copy(loss.backward())}
    return [
        make_row(head.name, head.kind, "forward", step, {"y": value}, {"y": head.y}, bounds),
        make_row(head.name, head.kind, "backward", step, gradient, {"dx": head.dx}, bounds),
    ]
