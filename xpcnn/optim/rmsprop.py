"""RMSprop."""

from __future__ import annotations

from typing import Any

from ..backend import Array, array_namespace, chain
from .optimizer import Optimizer, Parameters, Schedule, require


class RMSprop(Optimizer):
    """RMSprop (Hinton 2012), as PyTorch defines it: `s = alpha·s + (1 - alpha)·g²`, `w -= lr·g / (√s + eps)`.

    With momentum: `v = momentum·v + g / (√s + eps)`, `w -= lr·v`.

    Args:
        parameters: the model's parameters, or parameter groups: see `Optimizer`.
        lr: learning rate, a number or a schedule.
        alpha: weight of the previous value in the running average of the squared gradients.
        eps: added to the root of that average, so that nothing is divided by 0.
        weight_decay: strength of an L2 penalty: `weight_decay·w` is added to the gradient.
        momentum: weight of the previous velocity `v`; 0 for none.

    Raises:
        ValueError: if a number is out of range.
    """

    def __init__(
        self,
        parameters: Parameters,
        lr: float | Schedule = 0.01,
        *,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
    ) -> None:
        super().__init__(parameters, lr=lr, alpha=alpha, eps=eps, weight_decay=weight_decay, momentum=momentum)

    def check(self, group: dict[str, Any]) -> None:
        super().check(group)
        require(0 <= group["alpha"] < 1, "alpha", "at least 0 and below 1", group["alpha"])
        require(group["eps"] >= 0, "eps", "at least 0", group["eps"])
        require(0 <= group["momentum"] < 1, "momentum", "at least 0 and below 1", group["momentum"])

    def state_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        return ("square", "momentum") if group["momentum"] else ("square",)

    def numbers(self, group: dict[str, Any], lr: float, steps: int) -> tuple[float | None, ...]:
        alpha = group["alpha"]
        return group["weight_decay"] or None, alpha, 1 - alpha, group["eps"], group["momentum"] or None, lr

    @staticmethod
    @chain
    def update(data: Array, grad: Array, *operands: Any) -> None:
        square, *velocities, weight_decay, alpha, one_minus_alpha, eps, momentum, lr = operands
        if weight_decay is not None:
            grad = grad + data * weight_decay
        square *= alpha
        square += grad * grad * one_minus_alpha
        change = grad / (array_namespace(data).sqrt(square) + eps)
        if momentum is not None:
            (velocity,) = velocities
            velocity *= momentum
            velocity += change
            change = velocity
        data -= change * lr
