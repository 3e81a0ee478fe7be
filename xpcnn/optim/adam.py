"""Adam and AdamW."""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt

from ..backend import Array, device_of
from ..nn.module import Parameter
from .optimizer import Optimizer, require


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015): steps scaled by running estimates of each gradient's mean and square.

    Args:
        named_parameters: as `model.named_parameters()` yields them.
        lr: learning rate.
        betas: how much of the two running estimates is kept at each step.
        eps: added to the root of the second estimate, against division by 0.
        weight_decay: L2 penalty; its gradient `weight_decay·w` is added to the gradient.

    Raises:
        ValueError: if a number is out of range.
    """

    slots = ("mean", "square")
    decoupled = False

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, Parameter]],
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(named_parameters, lr)
        require(all(0 <= beta < 1 for beta in betas), "betas", "at least 0 and below 1", betas)
        require(eps >= 0, "eps", "at least 0", eps)
        require(weight_decay >= 0, "weight_decay", "at least 0", weight_decay)
        self.betas, self.eps, self.weight_decay = betas, eps, weight_decay

    def _update(self, data: Array, grad: Array, *state: Array) -> None:
        mean, square = state
        device = device_of(data)
        xp = device.xp
        change = device.scratch(data.shape, data.dtype, "change")
        if self.decoupled:
            data *= 1 - self.lr * self.weight_decay
        elif self.weight_decay:
            decayed = device.scratch(data.shape, data.dtype, "decayed")
            xp.multiply(data, self.weight_decay, out=decayed)
            decayed += grad
            grad = decayed
        beta1, beta2 = self.betas
        xp.multiply(grad, 1 - beta1, out=change)
        mean *= beta1
        mean += change
        xp.multiply(grad, grad, out=change)
        change *= 1 - beta2
        square *= beta2
        square += change
        # Both estimates start at 0; dividing by 1 - betaᵗ takes that bias out.
        xp.sqrt(square, out=change)
        change *= 1 / sqrt(1 - beta2**self.steps)
        change += self.eps
        xp.divide(mean, change, out=change)
        change *= self.lr / (1 - beta1**self.steps)
        data -= change


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019): `w -= lr·weight_decay·w` before each step.

    Args: those of `Adam`; `weight_decay` is 0.01 unless given.
    """

    decoupled = True

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, Parameter]],
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(named_parameters, lr, betas=betas, eps=eps, weight_decay=weight_decay)
