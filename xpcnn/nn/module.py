"""Parameters, buffers, and the modules that have them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import prod
from typing import Any, Literal, NamedTuple, Self, TypeAlias, TypeVar

import numpy as np

from .. import backend
from ..backend import CPU, Array, Device, Shape, device_of, imported
from ..functional.checks import check_gradient
from . import changes
from .autocast import operand
from .summary import Summary, summarize

Arithmetic: TypeAlias = Literal[
    "exact", "elementwise", "reduction", "product", "normalization", "channel_normalization"
]
Member = TypeVar("Member")


class Parameter:
    """An array that is trained, and the gradient of the loss w.r.t. it.

    Attributes:
        data: the array.
        frozen: whether it is left as it is in training: no gradient is added to it. See `Module.freeze`.
    """

    def __init__(self, data: Array) -> None:
        self.data, self.frozen = data, False
        self._grad: Array | None = None
        self._pending: Callable[[], Array] | None = None  # returns a gradient that a worker may still be computing

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)
        if name == "data":
            changes.note()

    def __repr__(self) -> str:
        return f"Parameter(shape={self.data.shape}, dtype={self.data.dtype}, device={device_of(self.data).name!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {"data": self.data, "frozen": self.frozen, "_grad": self.grad, "_pending": None}

    @property
    def grad(self) -> Array | None:
        """The gradient of the loss w.r.t. `data`, in its shape; None before a backward pass."""
        self._collect()
        return self._grad

    @grad.setter
    def grad(self, value: Array | None) -> None:
        self._grad, self._pending = value, None

    def add_gradient(self, gradient: Array) -> None:
        """Add to `grad`, as a parameter may be used more than once between two steps.

        Args:
            gradient: in the shape of `data`; the parameter keeps it and may change it in place. A frozen one ignores
                it.
        """
        self._collect()
        if self.frozen:
            return
        if self._grad is None:
            self._grad = gradient
        else:
            self._grad += gradient

    def add_pending(self, gradient: Callable[[], Array]) -> None:
        """Add a gradient that is still being computed to `grad`: when `grad` is read, or the next gradient is added.

        Args:
            gradient: returns it.
        """
        self._collect()  # otherwise the arrays of each further backward pass would be kept alive
        self._pending = gradient

    def _collect(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            self.add_gradient(pending())


class Buffer:
    """An array that is saved and moved with its module, but not trained, such as a running average.

    Attributes:
        data: the array; integers keep their dtype when the module is converted to another.
    """

    def __init__(self, data: Array) -> None:
        self.data = data

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)
        changes.note()

    def __repr__(self) -> str:
        return f"Buffer(shape={self.data.shape}, dtype={self.data.dtype}, device={device_of(self.data).name!r})"


class Counter(Buffer):
    """A number of events, which are counted on the host and added to the array when it is read.

    On a GPU each addition would take as long to start as that of a large array.
    """

    _data: Array
    _events = 0

    def count(self) -> None:
        """Count one more."""
        self._events += 1

    @property
    def data(self) -> Array:
        if self._events:
            self._data += self._events
            self.__dict__["_events"] = 0
        return self._data

    @data.setter
    def data(self, data: Array) -> None:
        self.__dict__.update(_data=data, _events=0)


class StateFit(NamedTuple):
    """What `Module.load_state_dict` left out.

    Attributes:
        missing: names of the module's arrays that the state lacks.
        unknown: names in the state that the module lacks.
        differing: by name, the shape that the module has and the shape in the state.
    """

    missing: list[str]
    unknown: list[str]
    differing: dict[str, tuple[Shape, Shape]]


class Cached:
    """Base class of modules and losses: saves what a forward pass computed for the backward pass."""

    training = True
    _source = "a forward pass in training mode"
    _called_again = False  # whether the last forward pass replaced what the one before had saved

    def __init__(self) -> None:
        self._cache: Any = None

    def save_for_backward(self, cache: Any, output: Array | None = None) -> None:
        """Save anything but None for the backward pass; in evaluation nothing is saved.

        Args:
            cache: what `saved` is to return.
            output: the forward pass's result, if the cache refers to its memory. On the CPU it becomes read-only, so
                that changing it in place is an error, rather than a change of the gradient.
        """
        self._called_again = self._cache is not None
        self._cache = cache if self.training else None
        if output is not None and self.training:
            device_of(output).protect(output)

    def saved(self) -> Any:
        """Return what the last forward pass saved, and release it.

        Raises:
            RuntimeError: if there was no forward pass in training mode since the last call.
        """
        cache, self._cache = self._cache, None
        if cache is None:
            name = type(self).__name__
            if self._called_again:
                raise RuntimeError(
                    f"{name} was used twice before its backward pass, and saves what it needs for the last use only: "
                    f"create a {name} for each use"
                )
            raise RuntimeError(f"{name}.backward needs {self._source} before it")
        return cache


class Module(Cached):
    """Base class of layers and networks: a forward pass and its backward pass.

    Called with a batch, a module computes its forward pass. The batch may be an array of another library, such as a
    tensor of PyTorch, if it has `__dlpack__`: it is read where it is. The output is an array of NumPy or CuPy, which
    the other library reads in the same way, `torch.from_dlpack(y)`.

    A subclass defines `forward` and `backward`; `xpcnn.nn` shows an example. Parameters, buffers and modules are found
    if they are attributes, or items of attributes that are lists, tuples or dictionaries. In evaluation nothing is
    saved for a backward pass, so several threads may use the module at the same time.

    Attributes:
        training: whether the module is in training mode.
        frozen: whether it is left as it is in training; see `freeze`.
        arithmetic: how the forward pass computes an element of its output, which determines how far two devices may
            differ. `"exact"` moves or selects values, `"elementwise"` computes from single elements, `"reduction"` from
            a sum over a sample at most, `"product"` from a matrix product or convolution with the layer's weight,
            `"normalization"` from the mean and variance of many values, `"channel_normalization"` from those of a
            pixel's channels.
    """

    arithmetic: Arithmetic = "reduction"
    frozen = False

    def __init__(self) -> None:
        super().__init__()
        self.training = True

    def __call__(self, x: Array) -> Array:
        return self.forward(imported(x))

    def __repr__(self) -> str:
        children = "".join(f"\n({name}): {child!r}" for name, child in self.named_children()).replace("\n", "\n  ")
        return f"{type(self).__name__}({self.extra_repr()}{children}" + ("\n)" if children else ")")

    def extra_repr(self) -> str:
        """Return the module's options, as `repr` shows them in brackets."""
        return ""

    def forward(self, x: Array) -> Array:
        """Return the module's output for a batch."""
        raise NotImplementedError

    def backward(self, dy: Array, *, input_gradient: bool = True) -> Array | None:
        """Add to the gradients of the parameters and return the gradient w.r.t. the last forward pass's input.

        Args:
            dy: gradient w.r.t. the output, in its shape.
            input_gradient: False if the gradient w.r.t. the input is not needed, as for a network's images; then it may
                be skipped and None returned.

        Raises:
            RuntimeError: if no forward pass in training mode came before.
        """
        raise NotImplementedError

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Yield the modules directly inside this one, with their names."""
        yield from self._members(Module)

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """Yield this module and all inside it, with their dotted names."""
        yield prefix, self
        for name, child in self.named_children():
            yield from child.named_modules(f"{prefix}.{name}" if prefix else name)

    def named_leaves(self) -> Iterator[tuple[str, Module]]:
        """Yield the modules that have no modules inside, with their dotted names."""
        for name, module in self.named_modules():
            if not any(True for _ in module.named_children()):
                yield name, module

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Yield all parameters with their dotted names, in the order of the layers; a tied one once, by its first."""
        found = set()
        for prefix, module in self.named_modules():
            for name, parameter in module._members(Parameter):
                if id(parameter) not in found:
                    found.add(id(parameter))
                    yield f"{prefix}.{name}" if prefix else name, parameter

    def parameters(self) -> Iterator[Parameter]:
        """Yield all parameters."""
        return (parameter for _, parameter in self.named_parameters())

    def named_buffers(self) -> Iterator[tuple[str, Buffer]]:
        """Yield all buffers, such as batch norm's running averages, with their dotted names."""
        return ((name, value) for name, value in self._named_arrays() if isinstance(value, Buffer))

    def _named_arrays(self) -> Iterator[tuple[str, Parameter | Buffer]]:
        for prefix, module in self.named_modules():
            # Parameters first, as in PyTorch's state.
            arrays: list[tuple[str, Parameter | Buffer]] = [*module._members(Parameter), *module._members(Buffer)]
            for name, value in arrays:
                yield f"{prefix}.{name}" if prefix else name, value

    def own_parameters(self) -> dict[str, Parameter]:
        """Return the parameters of this module by name, without those of the modules inside it."""
        return dict(self._members(Parameter))

    def _members(self, kind: type[Member]) -> Iterator[tuple[str, Member]]:
        for name, value in vars(self).items():
            if isinstance(value, kind):
                yield name, value
            elif isinstance(value, _CONTAINERS) and name != "_cache":
                yield from _members_in(name, value, kind)

    @property
    def device(self) -> Device:
        """The device of the parameters and buffers; the CPU for a module without any."""
        return next((device_of(value.data) for _, value in self._named_arrays()), CPU)

    def train(self, mode: bool = True) -> Self:
        """Switch this module and all inside it to training mode, or with False to evaluation; return the module."""
        for _, module in self.named_modules():
            module.training = mode
        self.forget()
        changes.note()
        return self

    def forget(self) -> None:
        """Release what forward passes saved, if there will be no backward pass."""
        for _, module in self.named_modules():
            module._cache, module._called_again = None, False

    def eval(self) -> Self:
        """Switch to evaluation: no dropout, running averages in batch norm, nothing saved for a backward pass."""
        return self.train(False)

    def freeze(self) -> Self:
        """Leave this module and all inside it as they are in training; return the module.

        Gradients w.r.t. their parameters become None and are no longer computed, so optimizers skip them. The backward
        pass of a `Sequential` ends where no module before has anything to learn. Batch norm normalises by its running
        averages, as in evaluation, and leaves them unchanged. Dropout still zeroes elements. Checkpoints keep what is
        frozen, state dictionaries do not.
        """
        return self._set_frozen(True)

    def unfreeze(self) -> Self:
        """Let this module and all inside it be trained again; return the module."""
        return self._set_frozen(False)

    def _set_frozen(self, frozen: bool) -> Self:
        for _, module in self.named_modules():
            module.frozen = frozen
            for parameter in module.own_parameters().values():
                parameter.frozen = frozen
                if frozen:
                    parameter.grad = None
        return self

    @property
    def frozen_modules(self) -> list[str]:
        """The dotted names of the modules that are frozen, this one's being `""`; setting them unfreezes all others.

        Raises:
            ValueError: when set, if there is no such module.
        """
        return [name for name, module in self.named_modules() if module.frozen]

    @frozen_modules.setter
    def frozen_modules(self, names: Iterable[str]) -> None:
        known, wanted = dict(self.named_modules()), set(names)
        if unknown := wanted - known.keys():
            raise ValueError(f"there is no module {min(unknown)!r} to freeze")
        self.unfreeze()
        for name in wanted:
            module = known[name]
            module.frozen = True
            for parameter in module.own_parameters().values():
                parameter.frozen, parameter.grad = True, None

    @property
    def learns(self) -> bool:
        """Whether any parameter of this module or inside it is trained: there is one, and it is not frozen."""
        return any(not parameter.frozen for parameter in self.parameters())

    def zero_grad(self) -> None:
        """Set all gradients to None."""
        for parameter in self.parameters():
            parameter.grad = None

    def to(self, device: Device | str | None = None, dtype: Any = None) -> Self:
        """Move all arrays to a device, convert floats to a dtype, or both; gradients become None.

        Args:
            device: the device or its name; None to stay.
            dtype: None to keep each array's own.

        Returns:
            the module itself.
        """
        for _, value in self._named_arrays():
            target = device_of(value.data) if device is None else backend.device(device)
            value.data = target.asarray(value.data, dtype if value.data.dtype.kind == "f" else None)
            if isinstance(value, Parameter):
                value.grad = None
        return self

    def state_dict(self) -> dict[str, Array]:
        """Return the arrays of parameters and buffers by name; names and shapes are PyTorch's."""
        return {name: value.data for name, value in self._named_arrays()}

    def load_state_dict(self, state: Mapping[str, Array], strict: bool = True) -> StateFit:
        """Copy arrays of any device into the parameters and buffers, or none of them if one does not fit.

        Args:
            state: the arrays by name; PyTorch's tensors too, and all that DLPack passes on.
            strict: False to copy those that fit and leave the rest as it is.

        Returns:
            what did not fit: nothing, if strict.

        Raises:
            ValueError: if a name is missing or unknown, or a shape differs, and `strict` is True.
        """
        own, state = dict(self._named_arrays()), {name: imported(array) for name, array in state.items()}
        missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        if strict and (missing or unknown):
            raise ValueError(f"state does not fit this model: missing {missing or 'none'}, unknown {unknown or 'none'}")
        common = {name: value for name, value in own.items() if name in state}
        shapes = {name: (value.data.shape, tuple(state[name].shape)) for name, value in common.items()}
        differing = {name: pair for name, pair in shapes.items() if pair[0] != pair[1]}
        if strict:
            for name, (expected, found) in differing.items():
                raise ValueError(f"{name}: expected shape {expected}, got {found}")
        # All are converted before the first is written.
        arrays = {
            name: device_of(value.data).asarray(state[name], value.data.dtype)
            for name, value in common.items()
            if name not in differing
        }
        for name, array in arrays.items():
            own[name].data[...] = array
        changes.note()
        return StateFit(missing, unknown, differing)

    def count_parameters(self) -> int:
        """Return the total number of elements of the parameters."""
        return sum(parameter.data.size for parameter in self.parameters())

    def multiply_adds(self, x: Array, y: Array) -> int | None:
        """Return how many multiplications by a weight, each with its addition, make the output `y` of the input `x`.

        None if that is not known: for a layer of your own that has parameters and is neither elementwise nor a
        normalization. It may define this method, for `summary`.
        """
        known = not self.own_parameters() or self.arithmetic in (
            "exact",
            "elementwise",
            "normalization",
            "channel_normalization",
        )
        return 0 if known else None

    def summary(self, in_shape: Sequence[int]) -> Summary:
        """Return the table of the layers, to print or to read: output shapes, parameters and multiply-adds.

        One image of zeros runs through the module in evaluation mode, on its device; every attribute of every module
        is restored afterwards, and no other thread may use the module meanwhile. The layers are in the order of their
        calls, so a ReLU comes after the max pooling that follows it; see `xpcnn.nn.rewrite`.

        Args:
            in_shape: of one image, without the axis N, such as `(1, 28, 28)`.

        Raises:
            ValueError: if the shape does not fit a layer.
        """
        return summarize(self, in_shape)


_CONTAINERS = (list, tuple, dict, set, frozenset)


def _members_in(name: str, value: Any, kind: type[Member]) -> Iterator[tuple[str, Member]]:
    """Yield the objects of a kind in an attribute: its value, or the items of lists, tuples and dictionaries."""
    if isinstance(value, kind):
        yield name, value
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from _members_in(f"{name}.{i}", item, kind)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _members_in(f"{name}.{key}", item, kind)
    elif isinstance(value, set | frozenset) and any(isinstance(item, Parameter | Buffer | Module) for item in value):
        raise TypeError(f"{name} is a set, which has no order: keep modules and parameters in a list, tuple or dict")


class Weighted(Module):
    """Base class of layers with a weight and an optional bias, computed by functions of `xpcnn.functional`."""

    arithmetic = "product"
    weight: Parameter
    bias: Parameter | None

    def multiply_adds(self, x: Array, y: Array) -> int | None:
        return int(y.size * self.weight.data[0].size)  # each output is a sum over one filter

    def _forward(self, forward: Callable[..., tuple[Array, Any]], x: Array, **options: Any) -> Array:
        if self.training:
            x = operand(x)
        y, cache = forward(x, self.weight.data, None if self.bias is None else self.bias.data, **options)
        self.save_for_backward(cache)
        return y

    def _backward(
        self,
        input_gradient_of: Callable[..., Array],
        parameter_gradients_of: Callable[..., tuple[Array, Array | None]],
        dy: Array,
        input_gradient: bool,
    ) -> Array | None:
        """Start computing the gradients w.r.t. the parameters, for which no other layer waits; return the input's."""
        cache = self.saved()
        if not input_gradient:  # else its function checks dy, before a task in the background could report an error
            check_gradient(type(self).__name__, dy, cache.output, cache.weight.dtype)
        if not any(parameter is not None and not parameter.frozen for parameter in (self.weight, self.bias)):
            return input_gradient_of(dy, cache) if input_gradient else None
        work = self.weight.data.size * prod(cache.output[1:])
        gradients = device_of(cache.x).background(lambda: parameter_gradients_of(dy, cache), work)
        dx = input_gradient_of(dy, cache) if input_gradient else None
        self.weight.add_pending(lambda: gradients()[0])
        if self.bias is not None:
            self.bias.add_pending(lambda: gradients()[1])
        return dx


def host_parameter(values: np.ndarray[Any, Any], dtype: Any) -> Parameter:
    """Return a parameter on the CPU with these values."""
    return Parameter(np.asarray(values, dtype=dtype, order="C"))
