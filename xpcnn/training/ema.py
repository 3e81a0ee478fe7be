"""The exponential moving average of a network's weights, which is often better than the weights of any one step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate, pairwise
from typing import Any

from ..backend import Array, Device, chain, device_of
from ..nn import Module
from ..nn.module import Buffer, Parameter


class EMA:
    """The exponential moving average (EMA) of a model's parameters over its training steps.

    Polyak and Juditsky (1992) average all steps alike; here the weights of early steps count for less and less. After
    step t the average is `Σ decay^(t-i)·w_i / Σ decay^(t-i)`, over the steps i from 1 to t, so that the initial weights
    have no part in it. PyTorch's `AveragedModel` is a copy of the model; here `apply` writes the averages to the
    model's own arrays, and `restore` the weights that training goes on with.

    Batch norm's running averages are averaged in the same way (`use_buffers=True` in PyTorch). Statistics computed anew
    with the averaged weights would need another pass over the training images. Buffers of integers are not averaged.

    All arrays of a dtype are averaged as one, so that a step takes two kernels on a GPU.

    Args:
        model: whose weights are averaged.
        decay: weight of the average before each step, at least 0 and below 1: 0.99 averages about the last 100 steps.
            None for no average: the model always has the weights of training.

    Attributes:
        steps: how many steps are in the average.

    Raises:
        ValueError: if the decay is out of range.
    """

    def __init__(self, model: Module, decay: float | None) -> None:
        if decay is not None and not 0 <= decay < 1:
            raise ValueError(f"the decay of the EMA must be at least 0 and below 1, got {decay!r}")
        self.decay, self.steps = decay, 0
        self._model = model
        self._kept: dict[str, Array] | None = None  # the weights of training, while the model has the averages
        self._parts: list[_Part] = []
        if decay is None:
            return
        named: dict[str, Parameter | Buffer] = dict(model.named_parameters())
        named |= dict(model.named_buffers())
        kinds = {value.data.dtype for value in named.values() if value.data.dtype.kind == "f"}
        for kind in sorted(kinds, key=str):
            self._parts.append(_Part({name: value for name, value in named.items() if value.data.dtype == kind}))

    def update(self) -> None:
        """Add the weights after a step to the average."""
        if self.decay is None:
            return
        self._model.device.host_numbers(self._count)
        for part in self._parts:
            part.update(self._weight)

    def _count(self) -> None:
        self.steps += 1

    def _weight(self) -> tuple[float]:
        assert self.decay is not None
        return ((1 - self.decay) / (1 - self.decay**self.steps),)  # 1 at the first step

    def state_dict(self) -> dict[str, Array]:
        """Return the averages by name; nothing before the first step."""
        return {name: array for part in self._parts for name, array in part.named()} if self.steps else {}

    def training_state(self) -> dict[str, Array]:
        """Return the state that training goes on with, whichever the model has."""
        return self._model.state_dict() if self._kept is None else self._kept

    def load(self, state: Mapping[str, Array], steps: int) -> None:
        """Load averages and the number of steps in them; the model has the weights of training."""
        self.steps, self._kept = steps, None
        for part in self._parts:
            part.load(state)

    def reset(self) -> None:
        """Begin anew, from the weights that the model has."""
        self.steps, self._kept = 0, None

    def apply(self) -> bool:
        """Give the model the averages; return False if it has them already, or there are none yet."""
        if self._kept is not None or not self.steps:
            return False
        self._kept = {name: array.copy() for name, array in self._model.state_dict().items()}
        self._model.load_state_dict(self._kept | self.state_dict())
        return True

    def restore(self) -> None:
        """Give the model the weights that training goes on with, if it has the averages."""
        if self._kept is not None:
            self._model.load_state_dict(self._kept)
            self._kept = None

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the model the averages in the block, and afterwards what it had before."""
        changed = self.apply()
        try:
            yield
        finally:
            if changed:
                self.restore()


class _Part:
    """The arrays of one dtype, and their averages packed into one array."""

    def __init__(self, named: dict[str, Parameter | Buffer]) -> None:
        self._named = named
        ends = [0, *accumulate(value.data.size for value in named.values())]
        self._slices = [slice(start, stop) for start, stop in pairwise(ends)]
        self._average: Array | None = None

    def update(self, weight: Callable[[], tuple[float]]) -> None:
        values = [value.data.reshape(-1) for value in self._named.values()]
        device = device_of(values[0])
        if self._average is None or weight() == (1,):  # the first step
            self._average = device.empty((self._slices[-1].stop,), values[0].dtype)
            device.concatenate(values, self._average)
            return
        (number,) = device.host_numbers(weight, self._average.dtype)
        packed = device.scratch(self._average.shape, self._average.dtype, "ema")
        device.concatenate(values, packed)
        device.map_elements(_move, self._on(device), packed, number, in_pieces=True)

    def named(self) -> Iterator[tuple[str, Array]]:
        average = self._on(device_of(next(iter(self._named.values())).data))
        for (name, value), place in zip(self._named.items(), self._slices, strict=True):
            yield name, average[place].reshape(value.data.shape)

    def load(self, state: Mapping[str, Array]) -> None:
        values = [(value.data, state[name]) for name, value in self._named.items()]
        device = device_of(values[0][0])
        flat = [device.asarray(array, own.dtype).reshape(-1) for own, array in values]
        self._average = device.xp.concatenate(flat)

    def _on(self, device: Device) -> Array:
        """Return the averages on the device that the model is on."""
        self._average = device.asarray(self._average)
        return self._average


@chain
def _move(average: Array, value: Array, weight: Any) -> None:
    average += (value - average) * weight
