"""Comparing evaluation mode: layer by layer, and as `xpcnn.nn.evaluation` rewrites the network.

Under observation nothing is rewritten, so each layer is compared as in training. The rewritten network shows in its
output only: it is compared with that of the other device, and on each device with that of the layers one by one.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..backend import Array, Device, HostArray
from ..nn import Module
from .bounds import Bound, largest
from .comparison import Comparison, compare
from .layers import replay
from .observe import LayerCall, ObservedLoss, host_copy, observe

NETWORK = "network"  # the kind of a comparison that is of no single layer
REWRITTEN = "rewritten network"


def evaluated(model: Module, loss: ObservedLoss, batch: tuple[Array, Array]) -> tuple[list[LayerCall], HostArray]:
    """Evaluate a model on a batch: layer by layer, with the loss, and rewritten.

    Args:
        model: in any mode; it is left in training mode.
        loss: of the output of the layers. It keeps a record.
        batch: images and labels.

    Returns:
        what each layer computed, and the output of the rewritten network.
    """
    model.eval()
    x = model.device.asarray(batch[0])
    with observe(model) as calls:
        output = model(x)
    loss(output, loss.place(output, batch[1]))
    loss.backward()
    rewritten = host_copy(model(x))
    model.train()
    return calls, rewritten


def compare_inference(
    model: Module,
    images: HostArray,
    calls: Sequence[LayerCall],
    output: HostArray,
    rewritten: HostArray,
    step: int,
    device: Device,
) -> list[Comparison]:
    """Compare what a model in evaluation mode computes here with what was recorded.

    Args:
        model: in evaluation mode, with the weights of the recorded step.
        images: of the step.
        calls, output: of the layers, as recorded, and of the last of them.
        rewritten: the recorded output of the rewritten network.
        step: its number, from 1.
        device: where the model is.
    """
    comparisons = replay(model, calls, step, device)
    # Each layer adds its relative error and passes on those before it at about their size. Folding a batch norm into a
    # convolution rounds each weight once or twice more. That is less than the batch norm's part of this sum.
    bounds = {"y": Bound(sum(comparison.tolerance for comparison in comparisons), largest(output))}
    x = device.asarray(images)
    with observe(model):
        output_here = host_copy(model(x))
    rewritten_here = host_copy(model(x))
    pairs = {
        "whole network": (output_here, output),
        "rewritten, here": (rewritten_here, output_here),
        "rewritten, recorded": (rewritten, output),
        REWRITTEN: (rewritten_here, rewritten),
    }
    for name, (found, expected) in pairs.items():
        comparisons.append(compare(name, NETWORK, "forward", step, {"y": found}, {"y": expected}, bounds))
    return comparisons
