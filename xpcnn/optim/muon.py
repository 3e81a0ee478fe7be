"""Muon: momentum whose updates are made orthogonal."""

from __future__ import annotations

from functools import partial
from math import sqrt
from typing import Any

from ..backend import Array, array_namespace, chain, device_of
from .flat import Flat
from .optimizer import Optimizer, Parameters, Schedule, require


class Muon(Optimizer):
    """Muon (Jordan et al. 2024): Nesterov momentum whose update of each weight is replaced by an orthogonal matrix.

    A weight `(O, ...)` is taken as a matrix of O rows, so that the filters of a convolution are rows of C·KH·KW
    numbers. Of the update's singular value decomposition `U S Vᵀ` about `U Vᵀ` is used: all directions change by as
    much. It is computed by a few steps of a Newton-Schulz iteration, a polynomial of matrices that moves all singular
    values to near 1 (0.7 to 1.2 after five steps). For hidden layers only, as the authors say: train biases, weights of
    normalisation and the last layer by another optimizer, in one `Combined` with this one.

    Args:
        parameters: weights with two axes or more, or parameter groups: see `Optimizer`.
        lr: learning rate, a number or a schedule.
        momentum: weight of the previous velocity, `v = momentum·v + g`.
        nesterov: whether to use Nesterov momentum, `momentum·v + g`, in place of `v`.
        weight_decay: `w -= lr·weight_decay·w` before each step.
        normalize: set the norm of each weight `(O, ...)` to `√O` before each step, so that the learning rate is
            relative to the weight. For weights whose scale does not count, as before batch norm.
        ns_steps: steps of the iteration; 3 to 5 are usual.
        eps: added to the norm by which an update is divided first, so that nothing is divided by 0.

    Raises:
        ValueError: if a number is out of range, or a parameter has fewer than two axes.

    The learning rate is not adjusted to the shape of a weight, as PyTorch's is unless its `adjust_lr_fn` is changed: to
    compare with `torch.optim.Muon`, whose options have the same names, multiply it by `√max(1, O / (C·KH·KW))`.
    """

    def __init__(
        self,
        parameters: Parameters,
        lr: float | Schedule = 0.02,
        *,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        normalize: bool = False,
        ns_steps: int = 5,
        eps: float = 1e-7,
    ) -> None:
        options = {"momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay, "normalize": normalize}
        super().__init__(parameters, lr=lr, ns_steps=ns_steps, eps=eps, **options)
        vector = next((name for name, parameter in self.parameters.items() if parameter.data.ndim < 2), None)
        if vector is not None:
            shape = self.parameters[vector].data.shape
            raise ValueError(f"Muon is for weights with two axes or more, got {vector!r} of shape {shape}")

    def check(self, group: dict[str, Any]) -> None:
        super().check(group)
        require(0 <= group["momentum"] < 1, "momentum", "at least 0 and below 1", group["momentum"])
        require(group["ns_steps"] >= 1, "ns_steps", "at least 1", group["ns_steps"])
        require(group["eps"] > 0, "eps", "above 0", group["eps"])

    def state_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        return ("momentum",)

    def update_flat(self, group: dict[str, Any], flat: Flat) -> None:
        momentum, nesterov = group["momentum"], group["nesterov"] or None
        lr, kept = device_of(flat.data).host_numbers(partial(self._rates, group, flat), flat.data.dtype)
        for data, grad, state in flat.learning():
            velocity = state["momentum"]
            direction = device_of(data).empty(grad.shape, grad.dtype)
            _push(velocity, grad, momentum, nesterov, direction)
            change = orthogonalized(direction.reshape(len(direction), -1), group["ns_steps"], group["eps"])
            if group["normalize"]:
                data *= sqrt(len(data)) / _norm(data)
            if kept is not None:
                data *= kept
            data -= change.reshape(data.shape) * lr

    def _rates(self, group: dict[str, Any], flat: Flat) -> tuple[float, float | None]:
        flat.count()
        lr, decay = self.rate(group), group["weight_decay"]
        return lr, 1 - lr * decay if decay else None


def orthogonalized(matrix: Array, steps: int, eps: float = 1e-7) -> Array:
    """Return a matrix with nearly the singular vectors of another, and singular values near 1.

    By `steps` steps of the quintic Newton-Schulz iteration `X = a·X + b·X Xᵀ X + c·(X Xᵀ)² X`, whose coefficients
    were chosen for few steps: they make small singular values grow 3.4-fold at each (Jordan et al. 2024).

    Args:
        matrix: `(rows, columns)`.
        steps: how many; more come no closer to 1 than 0.7 to 1.2.
        eps: added to the matrix's norm.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix / (_norm(matrix) + eps)
    wide = x.shape[0] <= x.shape[1]
    if not wide:
        x = x.T
    device = device_of(x)
    with device.one_blas_thread():
        for _ in range(steps):
            gram = _product(x, x.T)
            x = a * x + _product(b * gram + c * _product(gram, gram), x)
    return x if wide else x.T


def _product(a: Array, b: Array) -> Array:
    device = device_of(a)
    product = device.empty((len(a), b.shape[1]), a.dtype)
    device.matmul(a, b, out=product)
    return product


def _norm(x: Array) -> Array:
    return array_namespace(x).sqrt((x * x).sum())


@chain
def _push(velocity: Array, grad: Array, momentum: float, nesterov: bool | None, direction: Array) -> None:
    """Update the velocity, and write the direction of the step."""
    velocity *= momentum
    velocity += grad
    direction[...] = velocity if nesterov is None else velocity * momentum + grad
