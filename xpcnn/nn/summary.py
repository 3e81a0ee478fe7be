"""The table of a network's layers: output shapes, parameters and multiply-adds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backend import Array


@dataclass(frozen=True)
class LayerSummary:
    """One layer of a network.

    Attributes:
        name: its dotted name in the model; the class's name for the model itself.
        kind: its class's name.
        output_shape: of one image, without the axis N; None if the layer was not called or returned no array.
        parameters: the number of elements of its own parameters; a parameter that layers share counts in the first.
        multiply_adds: for one image, over all calls of the layer; None if they are not known.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...] | None
    parameters: int
    multiply_adds: int | None


@dataclass(frozen=True)
class Summary:
    """The layers of a network in the order of their calls; `str` makes a table of them.

    Multiply-adds are those of products with a weight: convolutions and linear layers, padding included. Biases,
    activations, pooling and normalization count as 0, as is usual.

    Attributes:
        in_shape: of one image, without the axis N.
        layers: one entry for each layer, and one for each module with layers inside that has parameters of its own.
    """

    in_shape: tuple[int, ...]
    layers: list[LayerSummary]

    @property
    def parameters(self) -> int:
        """The number of elements of all parameters."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def multiply_adds(self) -> int:
        """The multiply-adds for one image, of the layers where they are known."""
        return sum(layer.multiply_adds or 0 for layer in self.layers)

    @property
    def unknown(self) -> int:
        """The number of layers whose multiply-adds are not known."""
        return sum(layer.multiply_adds is None for layer in self.layers)

    def __str__(self) -> str:
        rows = [["layer", "kind", "output shape", "parameters", "multiply-adds"]]
        rows += [
            [layer.name, layer.kind, _shape(layer.output_shape), f"{layer.parameters:,}", _count(layer)]
            for layer in self.layers
        ]
        rows.append(
            [
                f"{len(self.layers)} layer{'s' * (len(self.layers) != 1)}",
                "",
                "",
                f"{self.parameters:,}",
                f"{self.multiply_adds:,}",
            ]
        )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                cell.rjust(width) if i > 2 else cell.ljust(width) for i, (cell, width) in enumerate(cells)
            ).rstrip()
            for cells in (list(zip(row, widths, strict=True)) for row in rows)
        ]
        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
        note = [f"- : not known, {self.unknown} of the layers; the total leaves them out"] if self.unknown else []
        start = f"for one image of shape {self.in_shape}"
        return "\n".join([start, lines[0], rule, *lines[1:-1], rule, lines[-1], *note])


def summarize(model: Any, in_shape: Sequence[int]) -> Summary:
    """Return the summary of a model; see `Module.summary`.

    Args:
        model: a `Module`; module.py imports this file, so this file cannot name the class.
        in_shape: of one image.
    """
    try:
        shape = tuple(int(size) for size in in_shape)
    except (TypeError, ValueError):
        shape = ()
    if not shape or min(shape) < 1:
        raise ValueError(f"expected in_shape to be the sizes of one image, such as (1, 28, 28), got {in_shape!r}")
    counted: set[int] = set()
    parameters: dict[str, int] = {}
    watched = []
    leaves = {name for name, _ in model.named_leaves()}
    for name, module in model.named_modules():
        own = module.own_parameters().values()
        if own or name in leaves:
            watched.append((name, module))
            parameters[name] = sum(parameter.data.size for parameter in own if id(parameter) not in counted)
            counted.update(map(id, own))
    calls: dict[str, tuple[tuple[int, ...] | None, int | None]] = {}
    with _left_as_it_was(model):
        for name, module in watched:
            vars(module)["forward"] = _observed(name, module, module.forward, calls)
        for _, module in model.named_modules():
            module.training = False  # not `eval()`, which releases what forward passes saved
        model(_zeros(model, shape))
    for name, _ in watched:
        calls.setdefault(name, (None, 0))  # it was not called
    modules = dict(watched)
    kinds = {name: type(modules[name]).__name__ for name in calls}
    return Summary(
        shape,
        [
            LayerSummary(name or kinds[name], kinds[name], found[0], parameters[name], found[1])
            for name, found in calls.items()
        ],
    )


def _zeros(model: Any, shape: tuple[int, ...]) -> Array:
    """Return an image of zeros on the model's device, in the data type of its parameters."""
    dtypes = (parameter.data.dtype for parameter in model.parameters())
    dtype = next((dtype for dtype in dtypes if dtype.kind == "f"), np.dtype(np.float32))
    return model.device.asarray(np.zeros((1, *shape), dtype))


@contextmanager
def _left_as_it_was(model: Any) -> Iterator[None]:
    """Restore all attributes of all modules after the block: modes, caches, and the observed methods."""
    before = [(module, dict(vars(module))) for _, module in model.named_modules()]
    try:
        yield
    finally:
        for module, attributes in before:
            vars(module).clear()
            vars(module).update(attributes)


def _observed(
    name: str,
    module: Any,
    forward: Callable[[Array], Array],
    calls: dict[str, tuple[tuple[int, ...] | None, int | None]],
) -> Callable[[Array], Array]:
    """Return a layer's forward pass, which also enters output shape and multiply-adds into `calls`."""

    def observed(x: Array) -> Array:
        _, before = calls.setdefault(name, (None, 0))  # here, so that a module comes before the layers inside it
        y = forward(x)
        count = module.multiply_adds(x, y)
        shape = getattr(y, "shape", None)
        calls[name] = None if shape is None else shape[1:], None if None in (before, count) else before + count
        return y

    return observed


def _count(layer: LayerSummary) -> str:
    return "-" if layer.multiply_adds is None else f"{layer.multiply_adds:,}"


def _shape(shape: tuple[int, ...] | None) -> str:
    return "-" if shape is None else str(shape)
