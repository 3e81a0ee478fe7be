"""Adam and AdamW."""

from __future__ import annotations

from math import sqrt
from typing import Any

from ..backend import Array, array_namespace, chain
from .optimizer import Optimizer, Parameters, Schedule, require


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015): steps scaled by running averages of each gradient and its square.

    Args:
        parameters: the model's parameters, or parameter groups: see `Optimizer`.
        lr: learning rate, a number or a schedule.
        betas: weights of the previous values in the two running averages.
        eps: added to the root of the second average, so that nothing is divided by 0.
        weight_decay: strength of an L2 penalty: `weight_decay·w` is added to the gradient.

    Raises:
        ValueError: if a number is out of range.
    """

    decoupled = False

    def __init__(
        self,
        parameters: Parameters,
        lr: float | Schedule = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def check(self, group: dict[str, Any]) -> None:
        super().check(group)
        require(all(0 <= beta < 1 for beta in group["betas"]), "betas", "at least 0 and below 1", group["betas"])
        require(group["eps"] >= 0, "eps", "at least 0", group["eps"])

    def state_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        return "mean", "square"

    def numbers(self, group: dict[str, Any], lr: float, steps: int) -> tuple[float | None, ...]:
        (beta1, beta2), weight_decay = group["betas"], group["weight_decay"]
        # Both averages start at 0; dividing by 1 - betaᵗ corrects that bias.
        corrected_lr, root = lr / (1 - beta1**steps), 1 / sqrt(1 - beta2**steps)
        decay = 1 - lr * weight_decay if self.decoupled else None
        penalty = None if self.decoupled else weight_decay or None
        return decay, penalty, beta1, 1 - beta1, beta2, 1 - beta2, root, group["eps"], corrected_lr

    @staticmethod
    @chain
    def update(data: Array, grad: Array, *operands: Any) -> None:
        mean, square, decay, penalty, beta1, one_minus_beta1, beta2, one_minus_beta2, root, eps, lr = operands
        if decay is not None:
            data *= decay
        if penalty is not None:
            grad = grad + data * penalty
        mean *= beta1
        mean += grad * one_minus_beta1
        square *= beta2
        square += grad * grad * one_minus_beta2
        data -= mean / (array_namespace(data).sqrt(square) * root + eps) * lr


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019): `w -= lr·weight_decay·w` before each step.

    Args: those of `Adam`; `weight_decay` is 0.01 unless given.
    """

    decoupled = True

    def __init__(
        self,
        parameters: Parameters,
        lr: float | Schedule = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(parameters, lr, betas=betas, eps=eps, weight_decay=weight_decay)
