"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..backend import Array, chain
from ..nn.module import Parameter
from .optimizer import Optimizer, require


class SGD(Optimizer):
    """Stochastic gradient descent with momentum, as PyTorch defines it: `v = momentum·v + g`, `w -= lr·v`.

    Args:
        named_parameters: as `model.named_parameters()` yields them.
        lr: learning rate.
        momentum: how much of the velocity is kept (Polyak 1964).
        nesterov: look ahead along the velocity (Nesterov 1983, in the form of Sutskever et al. 2013).
        weight_decay: L2 penalty; its gradient `weight_decay·w` is added to the gradient.
        decay: the learning rate of step t is `lr / (1 + decay·t)`, with t from 0.
        lr_in_velocity: let `v = momentum·v + lr·g`, `w -= v`, as Keras does: the same as long as the learning rate is,
            but a new rate then holds for new gradients only.

    Raises:
        ValueError: if a number is out of range, or `nesterov` is asked for without momentum.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, Parameter]],
        lr: float,
        *,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        decay: float = 0.0,
        lr_in_velocity: bool = False,
    ) -> None:
        self.slots = ("momentum",) if momentum else ()
        super().__init__(named_parameters, lr)
        require(0 <= momentum < 1, "momentum", "at least 0 and below 1", momentum)
        require(weight_decay >= 0, "weight_decay", "at least 0", weight_decay)
        require(decay >= 0, "decay", "at least 0", decay)
        require(momentum > 0 or not nesterov, "momentum", "above 0 for nesterov", momentum)
        self.momentum, self.nesterov, self.weight_decay, self.decay = momentum, nesterov, weight_decay, decay
        self.lr_in_velocity = lr_in_velocity

    def _numbers(self) -> tuple[float | None, ...]:
        lr = self.lr / (1 + self.decay * (self.steps - 1))
        rate, lr = (lr, 1.0) if self.lr_in_velocity else (None, lr)
        return self.weight_decay or None, rate, self.momentum or None, self.momentum if self.nesterov else None, lr

    @staticmethod
    @chain
    def _update(data: Array, grad: Array, *operands: Any) -> None:
        *velocities, weight_decay, rate, momentum, ahead, lr = operands
        if weight_decay is not None:
            grad = grad + data * weight_decay
        if rate is not None:
            grad = grad * rate
        if momentum is None:
            data -= grad * lr
            return
        (velocity,) = velocities
        velocity *= momentum
        velocity += grad
        data -= (velocity if ahead is None else velocity * ahead + grad) * lr
