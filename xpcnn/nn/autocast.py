"""Which arithmetic matrix products and convolutions use: the precisions, and what is rounded in mixed precision.

    precision  operands                  sums     everything else
    float32    float32                   float32  float32
    tf32       TF32, 11 significant bits  float32  float32
    mixed      float16, 11 bits          float32  float32

Mixed precision (Micikevicius et al. 2018) rounds, in training, the input, the weight and the output's gradient of each
layer with a weight (`nn.module.Weighted`) to float16 just before they are multiplied. The layer keeps its input as
float16 for the backward pass. Its output, the gradients it returns, the weights that the optimizer updates,
normalizations, activations and losses are float32. Small gradients would be 0 in float16, so the loss's gradient is
multiplied by a scale first: see `optim.GradScaler`. Evaluation computes in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Literal, TypeAlias, get_args

import numpy as np

from ..backend import Array, Device, rounded

Precision: TypeAlias = Literal["float32", "tf32", "mixed"]
_mixed = ContextVar("mixed", default=False)


@contextmanager
def autocast(precision: str, device: Device) -> Iterator[None]:
    """Compute products in a precision inside the block, in the calling thread.

    Args:
        precision: `"float32"`, `"tf32"` (GPUs of compute capability 8.0 or higher) or `"mixed"`.
        device: where they are computed.

    Raises:
        ValueError: if the precision is unknown, or the device does not have it.

    Example: a step in mixed precision, with `scaler = optim.GradScaler()`. The last two lines are in the place of
    `optimizer.step()`.

        optimizer.zero_grad()
        with nn.autocast("mixed", model.device):
            loss(model(inputs), targets)
            model.backward(scaler.scale(loss.backward()), input_gradient=False)
        scaler.unscale(optimizer)
        scaler.step(optimizer)
    """
    if check_precision(precision) == "tf32":
        with device.allow_tf32():
            yield
        return
    mixed = precision == "mixed"
    token = _mixed.set(mixed)
    try:
        # An overflow is no mistake here, as the step is skipped: NumPy shall not warn of it.
        with np.errstate(over="ignore", invalid="ignore") if mixed else nullcontext():
            yield
    finally:
        _mixed.reset(token)


def is_mixed() -> bool:
    """Return whether the calling thread is in a block of mixed precision."""
    return _mixed.get()


def operand(x: Array) -> Array:
    """Return the input of a layer with a weight as the layer multiplies and keeps it."""
    return rounded(x, np.float16) if _mixed.get() and getattr(x, "dtype", None) == np.float32 else x


def check_precision(precision: str) -> str:
    """Return a precision, or raise ValueError if there is no such."""
    if precision not in get_args(Precision):
        raise ValueError(f"unknown precision {precision!r}: expected {', '.join(get_args(Precision))}")
    return precision
