"""Modules made of modules: in sequence, and with a shortcut."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .. import functional as F
from ..backend import CPU, Array, Device, batch_last, device_or_none
from . import changes
from .chunks import image_chunks, in_chunks, note_output
from .evaluation import EVALUATION_RULES
from .module import Module
from .rewrite import LIMITS, Joined, Step, observed, rewritten


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
        self._first = 0  # the module whose input the forward pass is given

    @contextmanager
    def after(self, count: int) -> Iterator[None]:
        """Leave out the first `count` modules in the block: the input is their output.

        For training the rest of a network on the output of frozen modules, computed once. No other thread may use the
        network meanwhile.
        """
        self._first = count
        changes.note()
        try:
            yield
        finally:
            self._first = 0
            changes.note()

    def named_children(self) -> Iterator[tuple[str, Module]]:
        yield from self._modules.items()

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules.values())

    def __len__(self) -> int:
        return len(self._modules)

    def __getitem__(self, index: int | str) -> Module:
        return self._modules[index] if isinstance(index, str) else list(self)[index]

    def forward(self, x: Array) -> Array:
        device = _device(x)
        # Done once here: every layer limits BLAS to one thread, which takes as long as the product of a small layer.
        with device.one_blas_thread():
            chunks = [] if self.training else image_chunks(self, x, device)
            return in_chunks(self._compute, x, chunks, device) if chunks else self._compute(x)

    def _compute(self, x: Array) -> Array:
        for name, module in self._steps():
            try:
                x = module(x)
            except Exception as error:
                raise _located(error, name, module) from error
            if not self.training:
                note_output(x)
        return x

    def _steps(self) -> list[Step]:
        """Return what is computed, in order: in evaluation what `xpcnn.nn.evaluation` makes of the modules."""
        modules = dict(list(self._modules.items())[self._first :]) if self._first else self._modules
        # A module that is observed has a `forward` of its own.
        if self.training or any(module.training or observed(module) for module in modules.values()):
            return rewritten([*modules.items()])
        return changes.kept(self, "steps", lambda: rewritten([*modules.items()], EVALUATION_RULES))

    def backward(self, dy: Array, *, input_gradient: bool = True) -> Array | None:
        steps = rewritten([*self._modules.items()])
        modules = [module for _, module in steps]
        first = 0
        if not input_gradient:
            # Modules before the first one that learns do not need a gradient.
            trained = (i for i, module in enumerate(modules) if module.learns)
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
    if isinstance(module, Joined):
        module = module.of
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
        return _add_shortcut(self.main(x), x, self.shortcut, self.activation)

    def backward(self, dy: Array, *, input_gradient: bool = True) -> Array | None:
        return _residual_backward(self.main.backward, dy, self.shortcut, self.activation, input_gradient)


class ResidualSequential(Sequential):
    """Modules in sequence with a shortcut around them: a `Residual` that adds no level to the modules' names.

    The names of its parameters are those of torchvision's blocks: `conv1.weight`, `downsample.0.weight`.

    Args:
        downsample: the shortcut; None for the input itself.
        activation: applied to the sum; None for none.
        named: the modules in sequence. Iterating over the block and indexing it give these only.
    """

    def __init__(self, *, downsample: Module | None = None, activation: Module | None = None, **named: Module) -> None:
        super().__init__(**named)
        self.downsample, self.activation = downsample, activation

    def named_children(self) -> Iterator[tuple[str, Module]]:
        yield from super().named_children()
        for name, module in (("downsample", self.downsample), ("activation", self.activation)):
            if module is not None:
                yield name, module

    def forward(self, x: Array) -> Array:
        return _add_shortcut(super().forward(x), x, self.downsample, self.activation)

    def backward(self, dy: Array, *, input_gradient: bool = True) -> Array | None:
        return _residual_backward(super().backward, dy, self.downsample, self.activation, input_gradient)


def _add_shortcut(y: Array, x: Array, shortcut: Module | None, activation: Module | None) -> Array:
    if shortcut is not None:
        x = shortcut(x)
    if activation is None:
        return F.add(y, x)
    if type(activation) in LIMITS and not observed(activation):
        total = F.add(y, x, LIMITS[type(activation)])
        activation.save_for_backward(batch_last(total), total)  # what its own forward pass saves
        return total
    return activation(F.add(y, x))


def _residual_backward(
    main: Callable[..., Array | None],
    dy: Array,
    shortcut: Module | None,
    activation: Module | None,
    input_gradient: bool,
) -> Array | None:
    """Return the gradient w.r.t. the input of both paths; `main` is the backward pass of the path with the layers."""
    if activation is not None:
        dy = activation.backward(dy)
    dx = main(dy, input_gradient=input_gradient)
    shortcut_dx = dy if shortcut is None else shortcut.backward(dy, input_gradient=input_gradient)
    return F.add(dx, shortcut_dx) if input_gradient else None
