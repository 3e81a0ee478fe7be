"""What all optimizers share: named parameters, a step count, and state that can be saved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..backend import Array, device_of
from ..nn.module import Parameter


class Optimizer:
    """Changes parameters by their gradients.

    Args:
        named_parameters: pairs of name and parameter, as `model.named_parameters()` yields; state is kept by name.
        lr: learning rate, the size of a step; may be set anew at any time.
        slots: names of the arrays kept for each parameter, at first zero.

    Raises:
        ValueError: if there is no parameter, or a number is out of range.
    """

    slots: tuple[str, ...] = ()

    def __init__(self, named_parameters: Iterable[tuple[str, Parameter]], lr: float) -> None:
        self.parameters = dict(named_parameters)
        if not self.parameters:
            raise ValueError("an optimizer needs at least one parameter, got none")
        require(lr >= 0, "lr", "at least 0", lr)
        self.lr = lr
        self.steps = 0
        self._state: dict[str, dict[str, Array]] = {slot: {} for slot in self.slots}

    def zero_grad(self) -> None:
        """Forget the gradients, before the next backward pass."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def step(self) -> None:
        """Change every parameter that has a gradient."""
        self.steps += 1
        numbers = self._numbers()
        for name, parameter in self.parameters.items():
            if parameter.grad is not None:
                device = device_of(parameter.data)
                # Parts of a flat view are updated in place, and only C order has such a view.
                parameter.data = device.xp.ascontiguousarray(parameter.data).reshape(parameter.data.shape)
                state = [self._slot(slot, name, parameter) for slot in self.slots]
                grad = device.xp.ascontiguousarray(parameter.grad).reshape(parameter.data.shape)
                device.map_elements(self._update, parameter.data, grad, *state, *numbers, in_pieces=True)

    def _numbers(self) -> tuple[float | None, ...]:
        """Return this step's numbers, such as the learning rate; None for what does not take part."""
        return ()

    @staticmethod
    def _update(data: Array, grad: Array, *operands: Any) -> None:
        """Change `data` and the state's arrays in place; `grad` is only read. The numbers come last.

        A `chain`, so that a GPU updates a parameter in one go.
        """
        raise NotImplementedError

    def _slot(self, slot: str, name: str, parameter: Parameter) -> Array:
        arrays = self._state[slot]
        if name not in arrays or device_of(arrays[name]) is not device_of(parameter.data):
            # Made on first use, so that the model may be moved after the optimizer was made.
            device = device_of(parameter.data)
            zeros = device.xp.zeros(parameter.data.shape, parameter.data.dtype)
            arrays[name] = device.asarray(arrays[name], parameter.data.dtype) if name in arrays else zeros
        return arrays[name]

    def state_dict(self) -> dict[str, Array]:
        """Return the state's arrays as `"slot.parameter"`; the number of steps is the attribute `steps`."""
        return {f"{slot}.{name}": array for slot, arrays in self._state.items() for name, array in arrays.items()}

    def load_state_dict(self, state: Mapping[str, Array], steps: int) -> None:
        """Take up saved state.

        Raises:
            ValueError: if an array belongs to no parameter, or has another shape.
        """
        loaded: dict[str, dict[str, Array]] = {slot: {} for slot in self.slots}
        for key, array in state.items():
            slot, _, name = key.partition(".")
            if slot not in loaded or name not in self.parameters:
                raise ValueError(f"{type(self).__name__} state has an unknown entry {key!r}")
            data = self.parameters[name].data
            if array.shape != data.shape:
                raise ValueError(f"{type(self).__name__} state {key!r}: expected shape {data.shape}, got {array.shape}")
            loaded[slot][name] = device_of(data).asarray(array, data.dtype).copy()
        self._state, self.steps = loaded, steps


def require(condition: bool, name: str, expected: str, value: Any) -> None:
    """Raise ValueError unless an option is in its range."""
    if not condition:
        raise ValueError(f"{name} must be {expected}, got {value!r}")
