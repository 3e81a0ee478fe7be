"""Modules made of modules: in sequence, and with a shortcut."""

from __future__ import annotations

from collections.abc import Iterator

from .. import functional as F
from ..backend import CPU, Array, Device, device_or_none
from .module import Module
from .rewrite import rewritten


class Sequential(Module):
    """Applies modules one after the other.

    They may be computed in another order if the results are the same: see `xpcnn.nn.rewrite`.

    Args:
        modules: in order, named "0", "1", ….
        named: further modules, under their own names.
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
        # Done once here: every layer limits BLAS to one thread, which takes as long as the product of a small layer.
        with _device(x).one_blas_thread():
            for name, module in rewritten([*self._modules.items()]):
                try:
                    x = module(x)
                except Exception as error:
                    raise _located(error, name, module) from error
        return x

    def backward(self, dy: Array, *, input_gradient: bool = True) -> Array | None:
        steps = rewritten([*self._modules.items()])
        modules = [module for _, module in steps]
        first = 0
        if not input_gradient:
            # Modules before the first one with parameters do not need a gradient.
            trained = (i for i, module in enumerate(modules) if any(True for _ in module.parameters()))
            first = next(trained, len(modules))
        with _device(dy).overlapping():
            for i in reversed(range(first, len(modules))):
                try:
                    dy = modules[i].backward(dy, input_gradient=input_gradient or i > first)
                except Exception as error:
                    raise _located(error, *steps[i]) from error
        for module in modules[:first]:
            module.forget()
        return dy if input_gradient else None


def _located(error: Exception, name: str, module: Module) -> Exception:
    """Return an error of the same type that says in which module it was raised."""
    place = f"{name} ({type(module).__name__})"
    if type(error) in (ValueError, TypeError, RuntimeError):
        return type(error)(f"{place}: {error}")
    error.add_note(f"in {place}")  # other types may take other arguments than a message
    return error


def _device(x: Array) -> Device:
    return device_or_none(x) or CPU  # if it is not an array, the first layer raises an error with its name


class Residual(Module):
    """A module with a shortcut around it: `y = activation(main(x) + shortcut(x))` (He et al. 2016).

    Args:
        main: the module; its output has the shape of the shortcut's.
        shortcut: None for the input itself.
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
