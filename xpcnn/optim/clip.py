"""Gradient clipping."""

from __future__ import annotations

from collections.abc import Iterable

from ..backend import Array, array_namespace
from ..nn.module import Parameter
from .optimizer import require


def clip_grad_norm(parameters: Iterable[Parameter], max_norm: float) -> Array:
    """Scale all gradients by one factor so that their total norm is at most `max_norm` (Pascanu et al. 2013).

    Args:
        parameters: such as `model.parameters()`; those without a gradient are ignored.
        max_norm: the largest norm allowed.

    Returns:
        the norm before clipping, `√Σg²` over all elements of all gradients, as a 0-d array on their device. Gradients
        that are not finite stay so.

    Raises:
        ValueError: if no parameter has a gradient, or `max_norm` is negative.
    """
    require(max_norm >= 0, "max_norm", "at least 0", max_norm)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        raise ValueError("no gradients to clip: call clip_grad_norm between backward() and step()")
    xp = array_namespace(gradients[0])
    total = (gradients[0] * gradients[0]).sum()
    for gradient in gradients[1:]:
        total = total + (gradient * gradient).sum()
    norm = xp.sqrt(total)
    # 1e-6 as in PyTorch. The minimum is taken on the device, so that the host does not wait for the norm.
    factor = xp.minimum(max_norm / (norm + 1e-6), 1)
    for gradient in gradients:
        gradient *= factor
    return norm
