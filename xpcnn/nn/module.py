"""Parameters, and the modules that hold them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Self

import numpy as np

from ..backend import CPU, Array, Device, device_of


class Parameter:
    """An array that training changes, and the gradient of the loss by it.

    Attributes:
        data: the array.
        grad: an array of the same shape, or None before a backward pass.
    """

    def __init__(self, data: Array) -> None:
        self.data = data
        self.grad: Array | None = None

    def __repr__(self) -> str:
        return f"Parameter(shape={self.data.shape}, dtype={self.data.dtype}, device={device_of(self.data).name!r})"

    def add_gradient(self, gradient: Array) -> None:
        """Add to `grad`, as a parameter may be used more than once between two steps."""
        if self.grad is None:
            self.grad = gradient
        else:
            self.grad += gradient


class Module:
    """A layer, or a network of layers: a forward pass, and the backward pass written beside it.

    A subclass defines `forward` and `backward`; parameters and modules kept as attributes are found by name. While
    training, `forward` leaves what `backward` needs in `self._cache`; in evaluation it keeps nothing, so that several
    threads may share the module.
    """

    def __init__(self) -> None:
        self.training = True
        self._cache: Any = None

    def __call__(self, x: Array) -> Array:
        return self.forward(x)

    def __repr__(self) -> str:
        children = "".join(f"\n({name}): {child!r}" for name, child in self.named_children()).replace("\n", "\n  ")
        return f"{type(self).__name__}({self.extra_repr()}{children}" + ("\n)" if children else ")")

    def extra_repr(self) -> str:
        """Return the module's options, as they are shown between its brackets."""
        return ""

    def forward(self, x: Array) -> Array:
        """Return the module's output for a batch."""
        raise NotImplementedError

    def backward(self, dy: Array, *, input_gradient: bool = True) -> Array | None:
        """Add to the gradients of the parameters and return the gradient by the last forward pass's input.

        Args:
            dy: gradient of the loss by the output.
            input_gradient: False where nobody needs the gradient by the input, as for a network's images; then the
                work is skipped and None may be returned.

        Raises:
            RuntimeError: if no forward pass in training mode came before.
        """
        raise NotImplementedError

    def _keep(self, cache: Any) -> None:
        self._cache = cache if self.training else None

    def _take(self) -> Any:
        cache, self._cache = self._cache, None
        if cache is None:
            raise RuntimeError(f"{type(self).__name__}.backward needs a forward pass in training mode before it")
        return cache

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Yield the modules directly inside this one with their names."""
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """Yield this module and all inside it, with their dotted names."""
        yield prefix, self
        for name, child in self.named_children():
            yield from child.named_modules(f"{prefix}.{name}" if prefix else name)

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Yield all parameters with their dotted names, in the order of the layers."""
        for prefix, module in self.named_modules():
            for name, value in vars(module).items():
                if isinstance(value, Parameter):
                    yield f"{prefix}.{name}" if prefix else name, value

    def parameters(self) -> Iterator[Parameter]:
        """Yield all parameters."""
        return (parameter for _, parameter in self.named_parameters())

    @property
    def device(self) -> Device:
        """The device of the parameters; the CPU for a module that has none."""
        return next((device_of(parameter.data) for parameter in self.parameters()), CPU)

    def train(self, mode: bool = True) -> Self:
        """Switch this module and all inside it to training, or with False to evaluation."""
        for _, module in self.named_modules():
            module.training = mode
            module._cache = None
        return self

    def eval(self) -> Self:
        """Switch to evaluation: dropout passes everything, nothing is kept for a backward pass."""
        return self.train(False)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters():
            parameter.grad = None

    def to(self, device: Device | str | None = None, dtype: Any = None) -> Self:
        """Move all parameters to a device, convert them to a dtype, or both; gradients are forgotten."""
        for parameter in self.parameters():
            target = device_of(parameter.data) if device is None else Device(device)
            parameter.data = target.asarray(parameter.data, dtype)
            parameter.grad = None
        return self

    def state_dict(self) -> dict[str, Array]:
        """Return the parameters' arrays by name; names, shapes and layouts are PyTorch's."""
        return {name: parameter.data for name, parameter in self.named_parameters()}

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Copy arrays of any device into the parameters, all or none.

        Raises:
            ValueError: if a name is missing or unknown, or a shape differs.
        """
        own = dict(self.named_parameters())
        missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        if missing or unknown:
            raise ValueError(f"state does not fit this model: missing {missing or 'none'}, unknown {unknown or 'none'}")
        for name, parameter in own.items():
            if tuple(state[name].shape) != parameter.data.shape:
                raise ValueError(f"{name}: expected shape {parameter.data.shape}, got {tuple(state[name].shape)}")
        for name, parameter in own.items():
            parameter.data[...] = device_of(parameter.data).asarray(state[name], parameter.data.dtype)

    def count_parameters(self) -> int:
        """Return how many numbers the parameters hold."""
        return sum(parameter.data.size for parameter in self.parameters())


class Sequential(Module):
    """Modules one after the other.

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
        for name, module in self._modules.items():
            try:
                x = module(x)
            except (ValueError, TypeError) as error:
                raise type(error)(f"{name} ({type(module).__name__}): {error}") from error
        return x

    def backward(self, dy: Array, *, input_gradient: bool = True) -> Array | None:
        modules = list(self)
        first = 0
        if not input_gradient:
            # What lies before the first parameter has nothing to learn from a gradient.
            trained = (i for i, module in enumerate(modules) if any(True for _ in module.parameters()))
            first = next(trained, len(modules))
        for i in reversed(range(first, len(modules))):
            dy = modules[i].backward(dy, input_gradient=input_gradient or i > first)
        for module in modules[:first]:
            module._cache = None
        return dy if input_gradient else None


def host_parameter(values: np.ndarray[Any, Any], dtype: Any) -> Parameter:
    """Return a parameter on the CPU with freshly drawn values."""
    return Parameter(np.ascontiguousarray(values, dtype=dtype))
