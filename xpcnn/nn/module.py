"""Parameters and buffers, and the modules that hold them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

import numpy as np

from .. import backend
from ..backend import CPU, Array, Device, device_of


class Parameter:
    """An array that training changes, and the gradient of the loss by it.

    Attributes:
        data: the array.
    """

    def __init__(self, data: Array) -> None:
        self.data = data
        self._grad: Array | None = None
        self._coming: Callable[[], Array] | None = None  # gives a gradient that may still be on its way

    def __repr__(self) -> str:
        return f"Parameter(shape={self.data.shape}, dtype={self.data.dtype}, device={device_of(self.data).name!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {"data": self.data, "_grad": self.grad, "_coming": None}

    @property
    def grad(self) -> Array | None:
        """An array of the same shape, or None before a backward pass."""
        self._settle()
        return self._grad

    @grad.setter
    def grad(self, value: Array | None) -> None:
        self._grad, self._coming = value, None

    def add_gradient(self, gradient: Array) -> None:
        """Add to `grad`, as a parameter may be used more than once between two steps."""
        self._settle()
        if self._grad is None:
            self._grad = gradient
        else:
            self._grad += gradient

    def add_later(self, gradient: Callable[[], Array]) -> None:
        """Add what a function returns to `grad`, when that is asked for or the next one comes."""
        self._settle()  # or a pass after the other would leave its gradients behind
        self._coming = gradient

    def _settle(self) -> None:
        coming, self._coming = self._coming, None
        if coming is not None:
            self.add_gradient(coming())


class Buffer:
    """An array that is saved and moved with its module, but not trained, such as a running average.

    Attributes:
        data: the array; one of integers keeps its dtype when the module is converted to another.
    """

    def __init__(self, data: Array) -> None:
        self.data = data

    def __repr__(self) -> str:
        return f"Buffer(shape={self.data.shape}, dtype={self.data.dtype}, device={device_of(self.data).name!r})"


class Module:
    """A layer, or a network of layers: a forward pass, and the backward pass written beside it.

    A subclass defines `forward` and `backward`; parameters, buffers and modules kept as attributes are found by name.
    While training, `forward` leaves what `backward` needs in `self._cache`; in evaluation it keeps nothing, so that
    several threads may share the module.
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
        for name, value in self._named_arrays():
            if isinstance(value, Parameter):
                yield name, value

    def parameters(self) -> Iterator[Parameter]:
        """Yield all parameters."""
        return (parameter for _, parameter in self.named_parameters())

    def _named_arrays(self) -> Iterator[tuple[str, Parameter | Buffer]]:
        for prefix, module in self.named_modules():
            # Parameters first, as in PyTorch's state.
            for kind in (Parameter, Buffer):
                for name, value in vars(module).items():
                    if isinstance(value, kind):
                        yield f"{prefix}.{name}" if prefix else name, value

    @property
    def device(self) -> Device:
        """The device of the parameters and buffers; the CPU for a module that has none."""
        return next((device_of(value.data) for _, value in self._named_arrays()), CPU)

    def train(self, mode: bool = True) -> Self:
        """Switch this module and all inside it to training, or with False to evaluation."""
        for _, module in self.named_modules():
            module.training = mode
        self.forget()
        return self

    def forget(self) -> None:
        """Drop what forward passes left for backward passes that will not come."""
        for _, module in self.named_modules():
            module._cache = None

    def eval(self) -> Self:
        """Switch to evaluation: dropout passes everything, nothing is kept for a backward pass."""
        return self.train(False)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters():
            parameter.grad = None

    def to(self, device: Device | str | None = None, dtype: Any = None) -> Self:
        """Move all arrays to a device, convert all but integers to a dtype, or both; gradients are forgotten."""
        for _, value in self._named_arrays():
            target = device_of(value.data) if device is None else backend.device(device)
            value.data = target.asarray(value.data, dtype if value.data.dtype.kind == "f" else None)
            if isinstance(value, Parameter):
                value.grad = None
        return self

    def state_dict(self) -> dict[str, Array]:
        """Return the arrays of parameters and buffers by name; names, shapes and layouts are PyTorch's."""
        return {name: value.data for name, value in self._named_arrays()}

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Copy arrays of any device into the parameters and buffers, all or none.

        Raises:
            ValueError: if a name is missing or unknown, or a shape differs.
        """
        own = dict(self._named_arrays())
        missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        if missing or unknown:
            raise ValueError(f"state does not fit this model: missing {missing or 'none'}, unknown {unknown or 'none'}")
        for name, value in own.items():
            if tuple(state[name].shape) != value.data.shape:
                raise ValueError(f"{name}: expected shape {value.data.shape}, got {tuple(state[name].shape)}")
        # Only when all of them could be converted is the first one written.
        arrays = {name: device_of(value.data).asarray(state[name], value.data.dtype) for name, value in own.items()}
        for name, value in own.items():
            value.data[...] = arrays[name]

    def count_parameters(self) -> int:
        """Return how many numbers the parameters hold."""
        return sum(parameter.data.size for parameter in self.parameters())


class Weighted(Module):
    """A layer with a weight and perhaps a bias, computed by a forward function and its backward function."""

    weight: Parameter
    bias: Parameter | None

    def _compute(self, forward: Callable[..., tuple[Array, Any]], x: Array, **options: Any) -> Array:
        y, cache = forward(x, self.weight.data, None if self.bias is None else self.bias.data, **options)
        self._keep(cache)
        return y

    def _learn(
        self,
        by_input: Callable[..., Array],
        by_parameters: Callable[..., tuple[Array, Array | None]],
        dy: Array,
        input_gradient: bool,
    ) -> Array | None:
        """Begin with the gradients by the parameters, for which no other layer waits, and return that by the input."""
        cache = self._take()
        multiplications = self.weight.data.size * dy.size // dy.shape[1]
        gradients = device_of(dy).background(lambda: by_parameters(dy, cache), multiplications)
        self.weight.add_later(lambda: gradients()[0])
        if self.bias is not None:
            self.bias.add_later(lambda: gradients()[1])
        return by_input(dy, cache) if input_gradient else None


def host_parameter(values: np.ndarray[Any, Any], dtype: Any) -> Parameter:
    """Return a parameter on the CPU with freshly drawn values."""
    return Parameter(np.ascontiguousarray(values, dtype=dtype))
