"""RMSprop."""

from __future__ import annotations

from collections.abc import Iterable

from ..backend import Array, device_of
from ..nn.module import Parameter
from .optimizer import Optimizer, require


class RMSprop(Optimizer):
    """RMSprop (Hinton 2012), as PyTorch defines it: `s = alpha·s + (1 - alpha)·g²`, `w -= lr·g / (√s + eps)`.

    With momentum the quotient is gathered first: `v = momentum·v + g / (√s + eps)`, `w -= lr·v`.

    Args:
        named_parameters: as `model.named_parameters()` yields them.
        lr: learning rate.
        alpha: how much of the running mean of the squared gradients is kept at each step.
        eps: added to the root of that mean, against division by 0.
        weight_decay: L2 penalty; its gradient `weight_decay·w` is added to the gradient.
        momentum: how much of the velocity is kept.

    Raises:
        ValueError: if a number is out of range.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, Parameter]],
        lr: float = 0.01,
        *,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
    ) -> None:
        self.slots = ("square", "momentum") if momentum else ("square",)
        super().__init__(named_parameters, lr)
        require(0 <= alpha < 1, "alpha", "at least 0 and below 1", alpha)
        require(eps >= 0, "eps", "at least 0", eps)
        require(weight_decay >= 0, "weight_decay", "at least 0", weight_decay)
        require(0 <= momentum < 1, "momentum", "at least 0 and below 1", momentum)
        self.alpha, self.eps, self.weight_decay, self.momentum = alpha, eps, weight_decay, momentum

    def _update(self, data: Array, grad: Array, *state: Array) -> None:
        square, *velocity = state
        device = device_of(data)
        xp = device.xp
        change = device.scratch(data.shape, data.dtype, "change")
        if self.weight_decay:
            decayed = device.scratch(data.shape, data.dtype, "decayed")
            xp.multiply(data, self.weight_decay, out=decayed)
            decayed += grad
            grad = decayed
        xp.multiply(grad, grad, out=change)
        change *= 1 - self.alpha
        square *= self.alpha
        square += change
        xp.sqrt(square, out=change)
        change += self.eps
        xp.divide(grad, change, out=change)
        if velocity:
            velocity[0] *= self.momentum
            velocity[0] += change
            xp.multiply(velocity[0], self.lr, out=change)
        else:
            change *= self.lr
        data -= change
