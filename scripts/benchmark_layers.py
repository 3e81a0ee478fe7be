"""Single layers against PyTorch, forward and backward: the part of `benchmark.py` that `--layers` runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from benchmark_torch import Step, print_table, random_images, ratio, take_turns, to_torch

from xpcnn import Device, nn

Shape = tuple[int, ...]
Entry = tuple[Callable[[int], nn.Module], tuple[Shape, ...]]
# Small and narrow, wide and deep, large images in a small batch.
KINDS: tuple[Shape, ...] = ((64, 32, 14, 14), (32, 256, 14, 14), (4, 64, 112, 112))
ROWS: tuple[Shape, ...] = ((64, 128), (32, 1024), (256, 4096))


def every_kind(*shapes: Shape, **layers: Callable[[int], nn.Module]) -> dict[str, Entry]:
    """Return entries of a table: layers as functions of the number of channels, each kind of input, and `shapes`."""
    return {name.replace("_", " "): (make, (*KINDS, *shapes)) for name, make in layers.items()}


LAYERS: dict[str, Entry] = {
    **every_kind(
        ReLU=lambda C: nn.ReLU(),
        ReLU6=lambda C: nn.ReLU6(),
        LeakyReLU=lambda C: nn.LeakyReLU(),
        ELU=lambda C: nn.ELU(),
        Sigmoid=lambda C: nn.Sigmoid(),
        Tanh=lambda C: nn.Tanh(),
        SiLU=lambda C: nn.SiLU(),
        GELU=lambda C: nn.GELU(),
        GELU_tanh=lambda C: nn.GELU("tanh"),
        Softmax=lambda C: nn.Softmax(1),
        Dropout=lambda C: nn.Dropout(0.2),
        BatchNorm2d=nn.BatchNorm2d,
        GroupNorm_of_8=lambda C: nn.GroupNorm(8, C),
        LayerNorm2d=nn.LayerNorm2d,
        MaxPool2d_2=lambda C: nn.MaxPool2d(2),
        MaxPool2d_3_stride_2=lambda C: nn.MaxPool2d(3, stride=2, padding=1),
        AvgPool2d_2=lambda C: nn.AvgPool2d(2),
        AvgPool2d_3_stride_1=lambda C: nn.AvgPool2d(3, stride=1, padding=1),
        AdaptiveAvgPool2d_7=lambda C: nn.AdaptiveAvgPool2d(7),
        GlobalAvgPool2d=lambda C: nn.GlobalAvgPool2d(),
        Conv2d_depthwise_3=lambda C: nn.Conv2d(C, C, 3, padding=1, groups=C),
        Conv2d_depthwise_5=lambda C: nn.Conv2d(C, C, 5, padding=2, groups=C),
        Conv2d_depthwise_7=lambda C: nn.Conv2d(C, C, 7, padding=3, groups=C),
        Conv2d_depthwise_3_stride_2=lambda C: nn.Conv2d(C, C, 3, stride=2, padding=1, groups=C),
        Conv2d_1=lambda C: nn.Conv2d(C, 2 * C, 1),
        Conv2d_1_stride_2=lambda C: nn.Conv2d(C, 2 * C, 1, stride=2),
        Conv2d_3_in_4_groups=lambda C: nn.Conv2d(C, C, 3, padding=1, groups=4),
        Conv2d_3_dilation_2=lambda C: nn.Conv2d(C, C, 3, padding=2, dilation=2),
        Conv2d_3_stride_2=lambda C: nn.Conv2d(C, 2 * C, 3, stride=2, padding=1),
        ConvTranspose2d_4_stride_2=lambda C: nn.ConvTranspose2d(C, C // 2, 4, stride=2, padding=1),
    ),
    **every_kind((8, 512, 7, 7), Conv2d_3=lambda C: nn.Conv2d(C, C, 3, padding=1)),
    "Linear": (lambda C: nn.Linear(C, C), ROWS),
    "BatchNorm1d": (nn.BatchNorm1d, ROWS),
    "LayerNorm": (nn.LayerNorm, ROWS),
}
# The convolutions of the table's networks. Name: (C, O, kernel, image side, batch, padding).
CONVOLUTIONS = {
    "1→6 5×5 28²": (1, 6, 5, 28, 64, 2),
    "6→16 5×5 14²": (6, 16, 5, 14, 64, 0),
    "1→32 3×3 28²": (1, 32, 3, 28, 64, 1),
    "32→64 3×3 14²": (32, 64, 3, 14, 64, 1),
    "3→32 7×7 32²": (3, 32, 7, 32, 50, 3),
    "16→16 3×3 32²": (16, 16, 3, 32, 64, 1),
    "32→32 3×3 16²": (32, 32, 3, 16, 64, 1),
    "64→64 3×3 32²": (64, 64, 3, 32, 64, 1),
    "128→128 3×3 16²": (128, 128, 3, 16, 64, 1),
    "256→256 3×3 8²": (256, 256, 3, 8, 64, 1),
}


def measure_layers(device: Device, only: str, seconds: float) -> dict[str, list[dict[str, Any]]]:
    """Measure the layers whose name and input contain `only`, print a table for each kind, and return the rows."""
    results: dict[str, list[dict[str, Any]]] = {"layers": [], "convolutions": []}
    for name, (make, shapes) in LAYERS.items():
        for shape in shapes:
            if only in f"{name} {shape}":
                results["layers"].append(compare(name, make(shape[1]), shape, device, seconds))
    for name, (C, O, kernel, side, batch, padding) in CONVOLUTIONS.items():
        if only in name:
            shape, layer = (batch, C, side, side), nn.Conv2d(C, O, kernel, padding=padding)
            results["convolutions"].append(compare(name, layer, shape, device, seconds))
    for title, rows in results.items():
        if rows:
            print_table(f"{title.capitalize()}, forward and backward", rows)
    return results


def compare(name: str, layer: nn.Module, shape: Shape, device: Device, seconds: float) -> dict[str, Any]:
    """Return one layer's times, forward and backward, but for images of up to 3 channels no gradient w.r.t. them."""
    import torch

    x = device.asarray(random_images(shape))
    layer.to(device)
    dy = device.asarray(random_images(layer(x).shape))
    input_gradient = shape[1] > 3
    steps: dict[str, Step] = {"xpcnn": our_step(layer, x, dy, input_gradient)}
    for kind, layout in (("nchw", torch.contiguous_format), ("channels_last", torch.channels_last)):
        steps[kind] = torch_step(layer, x, dy, device, layout, input_gradient)
    times = take_turns(steps, device, seconds)
    print(f"{name} {shape}: {ratio(times):.2f}", file=sys.stderr)
    return {"layer": name, "input": "×".join(map(str, shape)), "ms": times, "ratio": ratio(times)}


def our_step(layer: nn.Module, x: Any, dy: Any, input_gradient: bool) -> Step:
    """Return a closure that runs a layer of this package forward and backward."""

    def step() -> None:
        layer.zero_grad()
        layer(x)
        layer.backward(dy, input_gradient=input_gradient)
        for parameter in layer.parameters():
            parameter.grad  # noqa: B018  # it may still be computed in the background

    return step


def torch_step(layer: nn.Module, x: Any, dy: Any, device: Device, layout: Any, input_gradient: bool) -> Step:
    """Return a closure that runs its translation forward and backward in one of PyTorch's memory formats."""
    import torch

    def tensor(array: Any) -> Any:
        made = torch.tensor(np.ascontiguousarray(device.to_host(array))).to(device.name)
        return made.contiguous(memory_format=layout) if made.ndim == 4 else made

    net = to_torch(layer).to(device.name, memory_format=layout)
    tx, tdy = tensor(x).requires_grad_(input_gradient), tensor(dy)

    def step() -> None:
        net.zero_grad()
        tx.grad = None
        net(tx).backward(tdy)

    return step
