"""Parameters packed into one array, and their gradients and optimizer state in the same way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import groupby, pairwise
from typing import Any

from ..backend import Array, Device, device_of
from ..nn.module import Parameter

State = dict[str, dict[str, Any]]  # by parameter name: the number of steps it has taken, and its arrays


class Flat:
    """The parameters of one group that have the same device and dtype.

    Attributes:
        data, grad: of all these parameters, `(total,)`, where total is their number of elements.
        state: the optimizer's arrays by name, `(total,)` each.
    """

    def __init__(self, named: dict[str, Parameter], state: State, arrays: tuple[str, ...]) -> None:
        self._parameters = list(named.values())
        self._states = [state.setdefault(name, {"step": 0}) for name in named]
        ends = [0]
        for parameter in self._parameters:
            ends.append(ends[-1] + parameter.data.size)
        self._slices = [slice(start, stop) for start, stop in pairwise(ends)]
        first = self._parameters[0].data
        device, dtype = device_of(first), first.dtype
        self.data = device.xp.empty(ends[-1], dtype)
        self.grad = device.xp.zeros(ends[-1], dtype)
        self.state = {name: device.xp.zeros(ends[-1], dtype) for name in arrays}
        self._learning: list[int] = []  # which parameters had a gradient when it was gathered
        self._data_views = [self._view(self.data, i) for i in range(len(named))]
        self._grad_views = [self._view(self.grad, i) for i in range(len(named))]
        for i, parameter in enumerate(self._parameters):
            self._data_views[i][...] = parameter.data
            parameter.data = self._data_views[i]
            for name in arrays:
                view = self._view(self.state[name], i)
                if name in self._states[i]:
                    view[...] = device.asarray(self._states[i][name], dtype)
                self._states[i][name] = view

    @classmethod
    def layout(cls, named: dict[str, Parameter], state: State, arrays: tuple[str, ...]) -> list[Flat]:
        """Pack parameters, those of the same device and dtype together.

        Args:
            named: the parameters by name; their `data` become views.
            state: their state by name, which is loaded and from now on kept up to date.
            arrays: the names of the arrays that the optimizer keeps for each parameter.

        Raises:
            ValueError: if a parameter is not of float32 or float64.
        """
        kinds: dict[tuple[Device, Any], dict[str, Parameter]] = {}
        for name, parameter in named.items():
            if parameter.data.dtype.char not in "fd":
                raise ValueError(
                    f"an optimizer needs parameters of float32 or float64: {name} is {parameter.data.dtype}"
                )
            kinds.setdefault((device_of(parameter.data), parameter.data.dtype), {})[name] = parameter
        return [cls(kind, state, arrays) for kind in kinds.values()]

    def is_current(self, arrays: tuple[str, ...]) -> bool:
        """Return whether the parameters' data still are the views made here, and the state has these arrays."""
        return tuple(self.state) == arrays and all(
            parameter.data is view for parameter, view in zip(self._parameters, self._data_views, strict=True)
        )

    def gather(self) -> None:
        """Copy the gradients to `grad` and make them views of it."""
        gradients = [parameter.grad for parameter in self._parameters]
        for i in self._learning:
            if gradients[i] is None:  # an infinite one would stay for ever
                self._grad_views[i].fill(0)
        self._learning = [i for i, gradient in enumerate(gradients) if gradient is not None]
        pending = [i for i in self._learning if gradients[i] is not self._grad_views[i]]
        for run in _runs(pending):
            part = self.grad[self._slices[run[0]].start : self._slices[run[-1]].stop]
            flat = [gradients[i].reshape(-1) for i in run]  # type: ignore[union-attr]
            device_of(part).concatenate(flat, part)
            for i in run:
                self._parameters[i].grad = self._grad_views[i]

    def spans(self) -> Iterator[tuple[slice, Callable[[], int]]]:
        """Yield the slices, of the arrays, of parameters that had a gradient to gather.

        Each comes with a function that counts a step for its parameters, and returns how many they have taken. Those
        that had no gradient in some steps have taken fewer.
        """
        for run in _runs(self._learning):
            for _, alike in groupby(run, key=lambda i: self._states[i]["step"]):
                part = list(alike)
                yield slice(self._slices[part[0]].start, self._slices[part[-1]].stop), partial(self._count, part)

    def count(self) -> int:
        """Count a step for each parameter that had a gradient to gather."""
        return self._count(self._learning)

    def _count(self, part: list[int]) -> int:
        for i in part:
            self._states[i]["step"] += 1
        return int(self._states[part[0]]["step"]) if part else 0

    def learning(self) -> Iterator[tuple[Array, Array, dict[str, Array]]]:
        """Yield data, gradient and state by name of each parameter that had a gradient to gather, in its shape."""
        for i in self._learning:
            state = {name: self._states[i][name] for name in self.state}
            yield self._data_views[i], self._grad_views[i], state

    def _view(self, array: Array, i: int) -> Array:
        return array[self._slices[i]].reshape(self._parameters[i].data.shape)


def _runs(numbers: list[int]) -> Iterator[list[int]]:
    """Split ascending numbers into runs of consecutive ones."""
    if numbers and numbers[-1] - numbers[0] == len(numbers) - 1:  # the usual case: one run
        yield numbers
        return
    for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        yield [number for _, number in run]
