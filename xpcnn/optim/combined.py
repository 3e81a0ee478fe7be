"""Several optimizers as one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..backend import Array, device_of
from .optimizer import Optimizer


class Combined(Optimizer):
    """Several optimizers, each with parameters of its own, that step together: for `Trainer`, which takes one.

        filters = [(name, p) for name, p in model.named_parameters() if p.data.ndim == 4]
        others = [(name, p) for name, p in model.named_parameters() if p.data.ndim != 4]
        optimizer = Combined(Muon(filters, 0.02), AdamW(others, 1e-3))

    Args:
        optimizers: at least one. Give them named parameters, as here: numbers would start at 0 in each.

    Attributes:
        optimizers: the same.
        param_groups: those of all of them, in their order.
        lr: the first one's learning rate; setting it sets that of all.

    Raises:
        ValueError: if there are none, or two have a parameter, or its name, in common.
    """

    def __init__(self, *optimizers: Optimizer) -> None:
        if not optimizers:
            raise ValueError("Combined needs at least one optimizer, got none")
        self.optimizers = optimizers
        self.parameters = {}
        known: set[int] = set()
        for optimizer in optimizers:
            for name, parameter in optimizer.parameters.items():
                if name in self.parameters or id(parameter) in known:
                    raise ValueError(f"two optimizers have the parameter {name!r}")
                self.parameters[name] = parameter
                known.add(id(parameter))
        self.param_groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        self.steps = 0

    def step(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()
        device_of(next(iter(self.parameters.values())).data).host_numbers(self._count)

    def gather(self) -> list[Array]:
        return [gradients for optimizer in self.optimizers for gradients in optimizer.gather()]

    def state_dict(self) -> dict[str, Array]:
        return {key: array for optimizer in self.optimizers for key, array in optimizer.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        owner = {name: optimizer for optimizer in self.optimizers for name in optimizer.parameters}
        parts: dict[Optimizer, dict[str, Any]] = {optimizer: {} for optimizer in self.optimizers}
        for key, array in state.items():
            _, _, name = key.partition(".")
            if key == "steps":
                for part in parts.values():
                    part[key] = array
            else:  # the first one names an entry that is none of them
                parts[owner.get(name, self.optimizers[0])][key] = array
        for optimizer, part in parts.items():
            optimizer.load_state_dict(part)
        self.steps = self.optimizers[0].steps
