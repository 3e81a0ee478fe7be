"""Stochastic gradient descent."""

from __future__ import annotations

from typing import Any

from ..backend import Array, chain
from .optimizer import Optimizer, Parameters, Schedule, require


class SGD(Optimizer):
    """Stochastic gradient descent with momentum, as PyTorch defines it: `v = momentum·v + g`, `w -= lr·v`.

    Args:
        parameters: the model's parameters, or parameter groups: see `Optimizer`.
        lr: learning rate, a number or a schedule.
        momentum: weight of the previous velocity `v`; 0 for none (Polyak 1964).
        nesterov: whether to use Nesterov momentum (Nesterov 1983, in the form of Sutskever et al. 2013).
        weight_decay: strength of an L2 penalty: `weight_decay·w` is added to the gradient.

    Raises:
        ValueError: if a number is out of range, or `nesterov` is asked for without momentum.
    """

    def __init__(
        self,
        parameters: Parameters,
        lr: float | Schedule,
        *,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)

    def check(self, group: dict[str, Any]) -> None:
        super().check(group)
        momentum = group["momentum"]
        require(0 <= momentum < 1, "momentum", "at least 0 and below 1", momentum)
        require(momentum > 0 or not group["nesterov"], "momentum", "above 0 for nesterov", momentum)

    def state_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        return ("momentum",) if group["momentum"] else ()

    def numbers(self, group: dict[str, Any], lr: float, steps: int) -> tuple[float | None, ...]:
        momentum = group["momentum"] or None
        return group["weight_decay"] or None, momentum, momentum if group["nesterov"] else None, lr

    @staticmethod
    @chain
    def update(data: Array, grad: Array, *operands: Any) -> None:
        *velocities, weight_decay, momentum, nesterov_momentum, lr = operands
        if weight_decay is not None:
            grad = grad + data * weight_decay
        if momentum is None:
            data -= grad * lr
            return
        (velocity,) = velocities
        velocity *= momentum
        velocity += grad
        data -= (velocity if nesterov_momentum is None else velocity * nesterov_momentum + grad) * lr
