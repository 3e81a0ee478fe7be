"""What a page shows of a network: its first filters, and its layers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..backend import to_host
from ..nn import Conv2d, Module, Summary
from .markup import Html, element, section, table
from .pictures import picture

_MOST_FILTERS = 64


def network_sections(model: Module, in_shape: Sequence[int] | None) -> list[Html]:
    """Return the parts of the page about a network.

    Args:
        model: the network, on any device.
        in_shape: of one image; None leaves out the layers.
    """
    sections = []
    first = next(((name, layer) for name, layer in model.named_leaves() if isinstance(layer, Conv2d)), None)
    if first is not None:
        sections.append(section("The first filters", *_filters(*first)))
    if in_shape is not None:
        try:
            layers = _layers(model.summary(in_shape))
        except Exception as error:  # a layer of the user's may fail with a single image; the run is worth its report
            layers = element(
                "p", f"not known, as one image alone fails: {type(error).__name__}: {error}", class_="soft"
            )
        sections.append(section("Layers", layers))
    return sections


def _filters(name: str, layer: Conv2d) -> list[Html]:
    weight = to_host(layer.weight.data)
    channels = weight.shape[1]
    kind = {1: "", 3: " in colour"}.get(channels, f", the first of {channels} channels")
    note = f"{name}: {len(weight)} filters of {weight.shape[2]}×{weight.shape[3]}{kind}, each scaled to its own range"
    note += f"; the first {_MOST_FILTERS}." if len(weight) > _MOST_FILTERS else "."
    shown = [
        picture(values.astype(np.float64), f"filter {i} of {name}") for i, values in enumerate(weight[:_MOST_FILTERS])
    ]
    return [element("p", note, class_="soft"), element("div", *shown, class_="pictures filters")]


def _layers(summary: Summary) -> Html:
    rows = [
        (
            layer.name,
            layer.kind,
            "-" if layer.output_shape is None else "×".join(map(str, layer.output_shape)),
            f"{layer.parameters:,}",
            "-" if layer.multiply_adds is None else f"{layer.multiply_adds:,}",
        )
        for layer in summary.layers
    ]
    foot = ("total", "", "", f"{summary.parameters:,}", f"{summary.multiply_adds:,}")
    head = ("layer", "kind", "output shape", "parameters", "multiply-adds")
    note = f"For one image of {'×'.join(map(str, summary.in_shape))}, in the order in which the layers are computed."
    if summary.unknown:
        note += f" The multiply-adds of {summary.unknown} of them are not known; the total leaves these out."
    shown = table("Layers with output shapes, parameters and multiply-adds", head, rows, foot=foot, left=3)
    return element("div", element("p", note, class_="soft"), shown)
