"""The base class of optimizers: parameter groups, step counts, learning rates, and state that can be saved."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from ..backend import Array, device_of, to_host
from ..nn import changes
from ..nn.module import Parameter
from .flat import Flat

Schedule: TypeAlias = Callable[[int], float]
Named: TypeAlias = Parameter | tuple[str, Parameter]
Parameters: TypeAlias = Iterable[Named] | Iterable[dict[str, Any]]


class Optimizer:
    """Base class of optimizers, which update parameters from their gradients.

    The parameters of a group are packed into one array per dtype, as are their gradients and state, so that a step is
    one operation for each. For this, `parameter.data` becomes a view when the optimizer is created, and
    `parameter.grad` at each step.

    A subclass defines `state_names`, and `numbers` and `update` or `update_flat`; it may extend `check`.

    Args:
        parameters: `model.parameters()`, `model.named_parameters()`, or parameter groups as in PyTorch: a list of
            dictionaries with `"params"` (one of the above) and options for these parameters alone, such as `"lr"`.
            State is kept by name; parameters without a name are numbered. A parameter given twice is used once.
        options: the default options of all groups. The learning rate `lr` is a number, or a schedule: a function of the
            number of steps already taken.

    Attributes:
        param_groups: the groups, with all their options, which may be changed between steps.
        steps: the number of steps taken.

    Raises:
        TypeError: if an item is not a parameter.
        ValueError: if there is no parameter, two have the same name, one is not of float32 or float64 (steps are lost
            in the rounding of float16), or an option is out of range.
    """

    def __init__(self, parameters: Parameters, **options: Any) -> None:
        self.steps = 0
        self.param_groups: list[dict[str, Any]] = []
        self._state: dict[str, dict[str, Array]] = {}
        self._flats: list[list[Flat]] = []
        self.parameters: dict[str, Parameter] = {}
        for group in _groups(parameters):
            self._add_group(options | group)
        if not self.parameters:
            raise ValueError("an optimizer needs at least one parameter, got none")

    def _add_group(self, group: dict[str, Any]) -> None:
        known = {id(parameter) for parameter in self.parameters.values()}
        named: dict[str, Parameter] = {}
        for item in group.pop("params"):
            name, parameter = item if isinstance(item, tuple) else (str(len(self.parameters) + len(named)), item)
            if not isinstance(parameter, Parameter):
                raise TypeError(f"expected parameters, or pairs of name and parameter, got {type(parameter).__name__}")
            if id(parameter) in known:
                continue
            if name in named or name in self.parameters:
                raise ValueError(f"two parameters are named {name!r}")
            known.add(id(parameter))
            named[name] = parameter
        self.check(group)
        self.parameters |= named
        self.param_groups.append({"params": list(named.values()), "names": list(named), **group})
        self._flats.append(Flat.layout(named, self._state, self.state_names(group)))

    # -- What a subclass defines ---------------------------------------------------------------------------------------

    def check(self, group: dict[str, Any]) -> None:
        """Raise ValueError if one of a group's options is out of range."""
        if not callable(group["lr"]):
            require(group["lr"] >= 0, "lr", "at least 0", group["lr"])
        require(group["weight_decay"] >= 0, "weight_decay", "at least 0", group["weight_decay"])

    def state_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        """Return the names of the arrays kept for each parameter of a group, initially zero."""
        return ()

    def numbers(self, group: dict[str, Any], lr: float, steps: int) -> tuple[float | None, ...]:
        """Return the numbers that `update` takes; None for a term that is left out.

        Args:
            group: the options.
            lr: the learning rate of this step.
            steps: the number of steps these parameters have taken, including this one.
        """
        raise NotImplementedError

    def update_flat(self, group: dict[str, Any], flat: Flat) -> None:
        """Update the parameters of a group that lie side by side: by `update`, unless a subclass needs their shapes.

        It counts a step for them, and takes numbers that change from step to step from `Device.host_numbers`, so that a
        GPU can replay it.

        Args:
            group: the options.
            flat: the parameters, their gradients and their state.
        """
        device = device_of(flat.data)
        for span, count in flat.spans():
            state = [flat.state[name][span] for name in flat.state]
            numbers = device.host_numbers(partial(self._numbers, group, count), flat.data.dtype)
            device.map_elements(self.update, flat.data[span], flat.grad[span], *state, *numbers, in_pieces=True)

    def _numbers(self, group: dict[str, Any], count: Callable[[], int]) -> tuple[float | None, ...]:
        return self.numbers(group, self.rate(group), count())

    @staticmethod
    def update(data: Array, grad: Array, *operands: Any) -> None:
        """Update `data` and the state's arrays in place; `grad` is only read.

        Make it a `backend.chain`, so that it is one kernel on a GPU.

        Args:
            data, grad: of some parameters, flattened to one axis.
            operands: the arrays of `state_names`, then what `numbers` returned, each as a number or an array `(1,)`.
        """
        raise NotImplementedError

    # -- What a training loop calls ------------------------------------------------------------------------------------

    def zero_grad(self) -> None:
        """Set all gradients to None, before the next backward pass."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def step(self) -> None:
        """Update every parameter that has a gradient."""
        self.gather()
        device = device_of(next(iter(self.parameters.values())).data)
        device.host_numbers(self._count)
        for group, flats in zip(self.param_groups, self._flats, strict=True):
            for flat in flats:
                self.update_flat(group, flat)
        device.host_numbers(changes.note)

    def _count(self) -> None:
        self.steps += 1

    def gather(self) -> list[Array]:
        """Pack the gradients of each group, and return them as one array per device and dtype.

        They may be changed in place before `step`, such as by a sum over processes. Parameters without a gradient are
        not updated, whatever is in their place in these arrays.
        """
        for i, (group, flats) in enumerate(zip(self.param_groups, self._flats, strict=True)):
            arrays = self.state_names(group)
            if not all(flat.is_current(arrays) for flat in flats):  # moved to another device, or reassigned
                named = dict(zip(group["names"], group["params"], strict=True))
                self._flats[i] = Flat.layout(named, self._state, arrays)
        found = [flat for flats in self._flats for flat in flats]
        for flat in found:
            flat.gather()
        return [flat.grad for flat in found]

    def arrays(self) -> list[Array]:
        """Return the arrays that `step` changes, after `gather`: the packed parameters and state of each group."""
        flats = [flat for flats in self._flats for flat in flats]
        return [array for flat in flats for array in (flat.data, *flat.state.values())]

    def rate(self, group: dict[str, Any]) -> float:
        """Return a group's learning rate in the step that is being taken."""
        return _rate(group["lr"], self.steps - 1)

    @property
    def lr(self) -> float:
        """The first group's learning rate in the next step; setting it sets that of all groups."""
        return self.learning_rate(self.steps)

    @lr.setter
    def lr(self, value: float | Schedule) -> None:
        for group in self.param_groups:
            group["lr"] = value

    def learning_rate(self, step: int) -> float:
        """Return the first group's learning rate after `step` steps."""
        return _rate(self.param_groups[0]["lr"], step)

    # -- Saved state ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Array]:
        """Return the state by name: `"steps"`, `"<array>.<parameter>"`, and `"step.<parameter>"`.

        The last is the number of steps that a parameter has taken, if that differs from `steps`.
        """
        device = device_of(next(iter(self.parameters.values())).data)
        found: dict[str, Array] = {"steps": device.asarray(np.array(self.steps))}
        for name, parameter in self._state.items():
            taken = int(parameter["step"])
            if taken:
                found |= {f"{array}.{name}": values for array, values in parameter.items() if array != "step"}
            if taken != self.steps:
                found[f"step.{name}"] = device.asarray(np.array(taken))
        return found

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Load what `state_dict` returned, on any device.

        Raises:
            ValueError: if an array belongs to no parameter, or has a different shape.
        """
        steps = int(to_host(state.get("steps", np.array(0))))
        loaded: dict[str, dict[str, Array]] = {name: {} for name in self.parameters}
        kind = type(self).__name__
        expected = {
            f"{array}.{name}"
            for group in self.param_groups
            for name in group["names"]
            for array in ("step", *self.state_names(group))
        }
        for key, array in state.items():
            if key == "steps":
                continue
            part, _, name = key.partition(".")
            if key not in expected:
                raise ValueError(f"{kind} state has an unknown entry {key!r}")
            shape = () if part == "step" else self.parameters[name].data.shape
            if tuple(array.shape) != shape:
                raise ValueError(f"{kind} state {key!r}: expected shape {shape}, got {tuple(array.shape)}")
            loaded[name][part] = array
        for name, own in self._state.items():
            own["step"] = int(to_host(loaded[name].get("step", np.array(steps))))
            for part, values in own.items():
                if part != "step":
                    values[...] = device_of(values).asarray(loaded[name].get(part, 0), values.dtype)
        self.steps = steps


def require(condition: bool, name: str, expected: str, value: Any) -> None:
    """Raise ValueError unless a condition on an option holds.

    Args:
        condition: whether it holds.
        name, expected, value: for the message "`name` must be `expected`, got `value`".
    """
    if not condition:
        raise ValueError(f"{name} must be {expected}, got {value!r}")


def _rate(lr: float | Schedule, step: int) -> float:
    return lr(step) if callable(lr) else lr


def _groups(parameters: Parameters) -> list[dict[str, Any]]:
    items = list(parameters)
    if items and all(isinstance(item, dict) for item in items):
        return [dict(item) for item in items]  # type: ignore[arg-type]
    return [{"params": items}]
