"""Modules made of modules: one after the other, and beside each other."""

from __future__ import annotations

from collections.abc import Iterator

from .. import functional as F
from ..backend import CPU, Array, Device, device_or_none
from .module import Module
from .rewrite import rewritten


class Sequential(Module):
    """Modules one after the other.

    What is computed may be rearranged, with the same results: see `xpcnn.nn.rewrite`.

    Args:
        modules: in order; named "0", "1", … unless given as keyword arguments, whose names they then take.
    """

    def __init__(self, *modules: Module, **named: Module) -> None:
        super().__init__()
        self._modules = {str(i): module for i, module in enumerate(modules)} | named

    def named_children(self) -> Iterator[tuple[str, Module]]:
        yield from self._modules.items()

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules.values())

    def __len__(self) -> int:
        return len(self._modules)

    def __getitem__(self, index: int | str) -> Module:
        return self._modules[index] if isinstance(index, str) else list(self)[index]

    def forward(self, x: Array) -> Array:
        # Every layer holds BLAS to one thread: on a small one that takes as long as its product, unless done before.
        with _device(x).one_blas_thread():
            for name, module in rewritten([*self._modules.items()]):
                try:
                    x = module(x)
                except (ValueError, TypeError) as error:
                    raise type(error)(f"{name} ({type(module).__name__}): {error}") from error
        return x

    def backward(self, dy: Array, *, input_gradient: bool = True) -> Array | None:
        modules = [module for _, module in rewritten([*self._modules.items()])]
        first = 0
        if not input_gradient:
            # What lies before the first parameter has nothing to learn from a gradient.
            trained = (i for i, module in enumerate(modules) if any(True for _ in module.parameters()))
            first = next(trained, len(modules))
        with _device(dy).overlapping():
            for i in reversed(range(first, len(modules))):
                dy = modules[i].backward(dy, input_gradient=input_gradient or i > first)
        for module in modules[:first]:
            module.forget()
        return dy if input_gradient else None


def _device(x: Array) -> Device:
    return device_or_none(x) or CPU  # what is no array is for a layer to refuse, under its name


class Residual(Module):
    """A module and a way around it, added up: `y = activation(main(x) + shortcut(x))` (He et al. 2016).

    Args:
        main: keeps the shape of its input, unless the shortcut changes it alike.
        shortcut: None for the input as it is.
        activation: applied to the sum; None for none.
    """

    def __init__(self, main: Module, shortcut: Module | None = None, activation: Module | None = None) -> None:
        super().__init__()
        self.main, self.shortcut, self.activation = main, shortcut, activation

    def forward(self, x: Array) -> Array:
        y = F.add(self.main(x), x if self.shortcut is None else self.shortcut(x))
        return y if self.activation is None else self.activation(y)

    def backward(self, dy: Array, *, input_gradient: bool = True) -> Array | None:
        if self.activation is not None:
            dy = self.activation.backward(dy)
        main = self.main.backward(dy, input_gradient=input_gradient)
        shortcut = dy if self.shortcut is None else self.shortcut.backward(dy, input_gradient=input_gradient)
        return F.add(main, shortcut) if input_gradient else None
