"""RMSprop."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..backend import Array, array_namespace, chain
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

    def _numbers(self) -> tuple[float | None, ...]:
        return self.weight_decay or None, self.alpha, 1 - self.alpha, self.eps, self.momentum or None, self.lr

    @staticmethod
    @chain
    def _update(data: Array, grad: Array, *operands: Any) -> None:
        square, *velocities, weight_decay, alpha, rest, eps, momentum, lr = operands
        if weight_decay is not None:
            grad = grad + data * weight_decay
        square *= alpha
        square += grad * grad * rest
        change = grad / (array_namespace(data).sqrt(square) + eps)
        if momentum is not None:
            (velocity,) = velocities
            velocity *= momentum
            velocity += change
            change = velocity
        data -= change * lr
