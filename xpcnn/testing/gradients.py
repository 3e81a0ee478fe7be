"""Checking a backward pass against numeric differences of its forward pass, in float64.

One random direction checks a whole gradient. If the gradient is off by e, the slope along a direction v of independent
normal numbers is off by e·v. This has the size of e, whichever elements are wrong.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import backend
from ..backend import Device, HostArray, device_or_none, to_host
from ..nn import Module, Parameter

Evaluate = Callable[[Sequence[HostArray]], float]


class GradientError(AssertionError):
    """A gradient is wrong, or the function has a kink near the inputs; the message says which."""


@dataclass(frozen=True)
class Slope:
    """The slope of a function along one direction.

    Attributes:
        analytic: from the backward pass.
        numeric: from differences of the forward pass.
        draws: how many directions were drawn until one met no kink.
    """

    analytic: float
    numeric: float
    draws: int


def check_gradients(
    function: Module | Callable[..., Any],
    inputs: Any,
    backward: Callable[..., Any] | None = None,
    *,
    device: Device | str | None = None,
    rtol: float = 1e-6,
    step: float = 1e-4,
    draws: int = 8,
    seed: int = 0,
) -> Slope:
    """Assert that a backward pass returns the gradient of its forward pass.

    Args:
        function: a module, whose parameters are checked too, or a forward function that returns its result and a cache.
            A module is copied, so its state does not change; its frozen parameters are left out.
        inputs: the argument, or a tuple of arguments. Those that are not arrays of floats are passed through.
        backward: the backward function of a forward function. It is called with the gradient w.r.t. the result and the
            cache, and returns the gradient w.r.t. the first argument, or a tuple with one for each argument; None
            for those that are not to be checked.
        device: where to compute; None for the device of the first array.
        rtol: the largest difference of the slopes, relative to the norm of the gradient.
        step: how far to go along the direction; half of it is tried too. Each further direction halves both.
        draws: how many directions to draw before reporting a kink. A direction meets one if the slopes of the two
            steps, or of its two sides, disagree: near 0 in ReLU, for example, or near a tie in max pooling.
        seed: of the directions.

    Returns:
        both slopes, which agree.

    Raises:
        GradientError: if the slopes differ, naming the argument or parameter at fault, or if all directions meet kinks.
        ValueError: if there is nothing to check.
    """
    arguments = inputs if isinstance(inputs, tuple) else (inputs,)
    place = device_or_none(next((x for x in arguments if device_or_none(x) is not None), None))
    subject = _Subject(function, arguments, backward, backend.device(device) if device is not None else place, seed)
    rng = np.random.default_rng(seed)
    for draw in range(1, draws + 1):
        direction = [rng.standard_normal(point.shape) for point in subject.points]
        numeric, problem = _slope(subject.value, subject.points, direction, step / 2 ** (draw - 1), rtol)
        if problem is None:
            break
    else:
        raise GradientError(f"kink: in {draws} directions {problem}; move the inputs away from where the slope jumps")
    analytic = _along(subject.gradients, direction)
    if _wrong(analytic, numeric, subject.gradients, rtol):
        raise GradientError(_message(subject, direction, analytic, numeric, step / 2 ** (draw - 1), rtol))
    return Slope(analytic, numeric, draw)


class _Subject:
    """The function made scalar: the sum of its result times fixed random numbers.

    Attributes:
        points: the arrays w.r.t. which gradients are taken, on the host in float64.
        names: of the points, for messages.
        gradients: w.r.t. the points, from the backward pass.
    """

    def __init__(
        self,
        function: Module | Callable[..., Any],
        arguments: tuple[Any, ...],
        backward: Callable[..., Any] | None,
        device: Device | None,
        seed: int,
    ) -> None:
        self._device = backend.CPU if device is None else device
        self._module = function if isinstance(function, Module) else None
        self._function, self._backward = function, backward
        if self._module is None and backward is None:
            raise ValueError("a function is checked together with its backward function, got none")
        self._arguments = arguments
        self._rng_seed = seed
        self._places = [i for i, x in enumerate(arguments) if device_or_none(x) is not None and x.dtype.kind == "f"]
        self.points = [np.array(to_host(arguments[i]), np.float64) for i in self._places]
        self.names = [f"argument {i}" for i in self._places]
        if self._module is not None:
            self._module = copy.deepcopy(self._module).to("cpu", np.float64).train()
            named = {name: p for name, p in self._module.named_parameters() if not p.frozen}
            self.points += [np.array(parameter.data, np.float64) for parameter in named.values()]
            self.names += list(named)
        self.gradients = self._backward_pass()
        if not self.points:
            raise ValueError("there is no array of floats to take a gradient w.r.t.")

    def value(self, points: Sequence[HostArray]) -> float:
        """Return the scalar at other points."""
        y, _ = self._forward(points)
        return float((to_host(y).astype(np.float64) * self._weights(y.shape)).sum())

    def _weights(self, shape: tuple[int, ...]) -> Any:
        return np.random.default_rng([self._rng_seed, 1]).standard_normal(shape)

    def _forward(self, points: Sequence[HostArray]) -> tuple[Any, Any]:
        arguments = list(self._arguments)
        for i, x in enumerate(arguments):
            if device_or_none(x) is not None:
                arguments[i] = self._device.asarray(x)
        for i, point in zip(self._places, points, strict=False):
            arguments[i] = self._device.asarray(point)
        if self._module is None:
            return self._function(*arguments)  # type: ignore[no-any-return]
        module = copy.deepcopy(self._module)  # a module may count its calls, as dropout does
        for parameter, point in zip(_learning(module), points[len(self._places) :], strict=True):
            parameter.data = np.array(point)
        module.to(self._device)
        return module(*arguments), module

    def _backward_pass(self) -> list[HostArray]:
        y, cache = self._forward(self.points)
        dy = self._device.asarray(self._weights(y.shape))
        if self._module is not None:
            dx = cache.backward(dy)
            return [np.array(to_host(array)) for array in (dx, *(parameter.grad for parameter in _learning(cache)))]
        assert self._backward is not None
        returned = self._backward(dy, cache)
        returned = list(returned) if isinstance(returned, tuple | list) else [returned]
        gradients = dict(enumerate(returned))
        kept = [n for n, i in enumerate(self._places) if gradients.get(i) is not None]
        self.points, self.names = [self.points[n] for n in kept], [self.names[n] for n in kept]
        self._places = [self._places[n] for n in kept]
        return [np.array(to_host(gradients[i])) for i in self._places]


def _slope(
    value: Evaluate, points: Sequence[HostArray], direction: Sequence[HostArray], step: float, rtol: float
) -> tuple[float, str | None]:
    """Return the slope at `points`, and a description of the kink if there is one nearby."""

    def at(distance: float) -> float:
        return value([point + distance * v for point, v in zip(points, direction, strict=True)])

    middle = at(0)
    slopes, gaps = [], []
    for h in (step, step / 2):
        ahead, behind = (at(h) - middle) / h, (middle - at(-h)) / h
        slopes.append((ahead + behind) / 2)
        gaps.append(abs(ahead - behind))
    # For a smooth function, half the step means a quarter of the slope's error, and half the gap between its sides.
    size = max(abs(slopes[0]), abs(slopes[1]), abs(middle))
    if not np.isfinite(slopes).all():
        return slopes[1], f"the slope is {slopes[1]}"
    if gaps[1] > 0.75 * gaps[0] and gaps[1] > rtol * size:
        return slopes[1], f"the slopes to both sides differ by {gaps[1]:.3g}, over half the step as over the whole"
    if abs(slopes[0] - slopes[1]) > rtol * size:
        return slopes[1], f"the slope is {slopes[0]:.6g} over one step and {slopes[1]:.6g} over half of it"
    return (4 * slopes[1] - slopes[0]) / 3, None  # Richardson: the error in the square of the step cancels


def _along(gradients: Sequence[HostArray], direction: Sequence[HostArray]) -> float:
    for gradient, v in zip(gradients, direction, strict=True):
        if gradient.shape != v.shape:
            raise GradientError(f"expected a gradient of shape {v.shape}, got {gradient.shape}")
    return float(sum((gradient * v).sum() for gradient, v in zip(gradients, direction, strict=True)))


def _wrong(analytic: float, numeric: float, gradients: Sequence[HostArray], rtol: float) -> bool:
    length = float(np.sqrt(sum(np.square(gradient).sum() for gradient in gradients)))
    return not abs(analytic - numeric) <= rtol * max(length, abs(numeric), 1e-6)


def _message(
    subject: _Subject, direction: Sequence[HostArray], analytic: float, numeric: float, step: float, rtol: float
) -> str:
    for i, name in enumerate(subject.names):
        alone = [v if j == i else np.zeros_like(v) for j, v in enumerate(direction)]
        slope, problem = _slope(subject.value, subject.points, alone, step, rtol)
        given = _along(subject.gradients, alone)
        if problem is None and _wrong(given, slope, subject.gradients[i : i + 1], rtol):
            shape = subject.points[i].shape
            slopes = f"along a random direction it gives {given:.9g}, differences {slope:.9g}"
            return f"the gradient of {name} {shape} is wrong: {slopes}"
    return f"the gradient is wrong: along a random direction it gives {analytic:.9g}, differences {numeric:.9g}"


def _learning(module: Module) -> list[Parameter]:
    return [parameter for parameter in module.parameters() if not parameter.frozen]
