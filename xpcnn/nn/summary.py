"""The table of a network's layers: output shapes, parameters and multiply-adds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
        for layer in self.layers:
            shape = "-" if layer.output_shape is None else str(layer.output_shape)
            count = "-" if layer.multiply_adds is None else f"{layer.multiply_adds:,}"
            rows.append([layer.name, layer.kind, shape, f"{layer.parameters:,}", count])
        number = f"{len(self.layers)} layer{'' if len(self.layers) == 1 else 's'}"
        rows.append([number, "", "", f"{self.parameters:,}", f"{self.multiply_adds:,}"])
        head, *lines, totals = aligned(rows, left=3)
        rule = "-" * max(map(len, (head, *lines, totals)))
        table = [f"for one image of shape {self.in_shape}", head, rule, *lines, rule, totals]
        if self.unknown:
            table.append(f"- : not known, {self.unknown} of the layers; the total leaves them out")
        return "\n".join(table)


def aligned(rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """Return the lines of a table in text.

    Args:
        rows: of cells, the headings first; all of the same length.
        left: how many columns are text, aligned to the left; those after them are numbers.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = zip(row, widths, strict=True)
        padded = (cell.ljust(width) if i < left else cell.rjust(width) for i, (cell, width) in enumerate(cells))
        lines.append("  ".join(padded).rstrip())
    return lines


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
    layers = list(_layers(model))
    called: dict[str, LayerSummary] = {}
    with _left_as_it_was(model):
        for module, layer in layers:
            vars(module)["forward"] = _observed(module, layer, called)
        for _, module in model.named_modules():
            module.training = False  # not `eval()`, which releases what forward passes saved
        model(_zeros(model, shape))
    idle = [layer for _, layer in layers if layer.name not in called]
    return Summary(shape, [*called.values(), *idle])


def _layers(model: Any) -> Iterator[tuple[Any, LayerSummary]]:
    """Yield the modules that the table shows, each with its entry as it is before any call."""
    leaves = {id(module) for _, module in model.named_leaves()}
    seen: set[int] = set()  # modules and parameters, as either may be shared
    for name, module in model.named_modules():
        own = module.own_parameters().values()
        if id(module) not in seen and (own or id(module) in leaves):
            count = sum(parameter.data.size for parameter in own if id(parameter) not in seen)
            seen.update(map(id, (module, *own)))
            kind = type(module).__name__
            yield module, LayerSummary(name or kind, kind, None, count, 0)


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


def _observed(module: Any, layer: LayerSummary, called: dict[str, LayerSummary]) -> Callable[[Array], Array]:
    """Return the forward pass of a module, which also enters what it did into `called`."""
    forward = module.forward

    def observed(x: Array) -> Array:
        called.setdefault(layer.name, layer)  # before the call, so that a module precedes the layers inside it
        y = forward(x)
        before, count = called[layer.name].multiply_adds, module.multiply_adds(x, y)
        total = None if before is None or count is None else before + count
        shape = tuple(y.shape[1:]) if hasattr(y, "shape") else None
        called[layer.name] = replace(layer, output_shape=shape, multiply_adds=total)
        return y

    return observed
