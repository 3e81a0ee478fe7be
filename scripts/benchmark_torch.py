"""The same network in PyTorch, and the times of both: what the parts of `benchmark.py` share."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from math import exp, log
from typing import Any

import numpy as np

import xpcnn
from xpcnn import Device, nn
from xpcnn.backend import CPU
from xpcnn.models.convnext import ConvNeXtBlock, PointwiseLinear

Step = Callable[[], Any]
# Modules whose class and options have the same names in PyTorch.
OPTIONS: dict[str, tuple[str, ...]] = {
    "AdaptiveAvgPool2d": ("output_size",),
    "AvgPool2d": ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad"),
    "BatchNorm1d": ("num_features", "eps", "momentum"),
    "BatchNorm2d": ("num_features", "eps", "momentum"),
    "Conv2d": ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"),
    "ConvTranspose2d": (
        "in_channels",
        "out_channels",
        "kernel_size",
        "stride",
        "padding",
        "output_padding",
        "groups",
        "dilation",
    ),
    "Dropout": ("p",),
    "ELU": ("alpha",),
    "Flatten": (),
    "GELU": ("approximate",),
    "GroupNorm": ("num_groups", "num_channels", "eps"),
    "Identity": (),
    "LayerNorm": ("normalized_shape", "eps"),
    "LeakyReLU": ("negative_slope",),
    "Linear": ("in_features", "out_features"),
    "MaxPool2d": ("kernel_size", "stride", "padding", "dilation", "ceil_mode"),
    "ReLU": (),
    "ReLU6": (),
    "SiLU": (),
    "Sigmoid": (),
    "Softmax": ("dim",),
    "Tanh": (),
}
WITH_BIAS = ("Conv2d", "ConvTranspose2d", "Linear")


def to_torch(module: nn.Module) -> Any:
    """Translate a module into PyTorch's, with its options and weights."""
    import torch

    t = torch.nn
    name = type(module).__name__
    if isinstance(module, nn.ResidualSequential):
        return _torch_residual(t.Sequential(*map(to_torch, module)), module.downsample, module.activation)
    if isinstance(module, nn.Sequential):
        return t.Sequential(*map(to_torch, module))
    if isinstance(module, nn.Residual):
        return _torch_residual(to_torch(module.main), module.shortcut, module.activation)
    if isinstance(module, ConvNeXtBlock):
        return _torch_convnext_block(module)
    if isinstance(module, nn.GlobalAvgPool2d):
        return t.Sequential(t.AdaptiveAvgPool2d(1), t.Flatten())
    if isinstance(module, nn.LayerNorm2d):
        made = t.LayerNorm(len(module.weight.data), module.eps)
    elif isinstance(module, PointwiseLinear):
        made = t.Linear(module.in_features, module.out_features)
    elif name in OPTIONS:
        options = {option: getattr(module, option) for option in OPTIONS[name]}
        if name in WITH_BIAS:
            options["bias"] = module.bias is not None
        made = getattr(t, name)(**options)
    else:
        raise NotImplementedError(f"{name} has no translation here")
    made.load_state_dict({key: _tensor(array) for key, array in module.state_dict().items()})
    if isinstance(module, nn.LayerNorm2d):
        return t.Sequential(_permute(0, 2, 3, 1), made, _permute(0, 3, 1, 2))
    return made


def _torch_residual(main: Any, shortcut: nn.Module | None, activation: nn.Module | None) -> Any:
    import torch

    class Residual(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.main = main
            self.shortcut = to_torch(shortcut or nn.Identity())
            self.activation = to_torch(activation or nn.Identity())

        def forward(self, x: Any) -> Any:
            return self.activation(self.main(x) + self.shortcut(x))

    return Residual()


def _torch_convnext_block(module: ConvNeXtBlock) -> Any:
    """Return torchvision's block: its norm and linear layers see the channels as the last axis."""
    import torch

    conv, norm, *others = (to_torch(layer) for layer in module.block)

    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            # The norm without the permutations around it, which here enclose the linear layers too.
            self.block = torch.nn.Sequential(conv, norm[0], norm[1], *others, norm[2])
            self.layer_scale = torch.nn.Parameter(_tensor(module.layer_scale.data))

        def forward(self, x: Any) -> Any:
            return x + self.layer_scale * self.block(x)

    return Block()


def _permute(*axes: int) -> Any:
    import torch

    class Permute(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return x.permute(axes)

    return Permute()


def _tensor(array: Any) -> Any:
    import torch

    return torch.tensor(xpcnn.backend.to_host(array))


def random_images(shape: tuple[int, ...]) -> Any:
    """Return random numbers `(N, ...)` in the memory order of the package's layers, which is also the loader's."""
    values = np.random.default_rng(0).standard_normal((*shape[1:], shape[0]), np.float32)
    return values.transpose(len(shape) - 1, *range(len(shape) - 1))


def take_turns(steps: dict[str, Step], device: Device, seconds: float, warmup: int = 3) -> dict[str, float]:
    """Return each contender's median time of a step in milliseconds."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        for _ in range(warmup):
            step()
    inner = 1 if device is CPU else 10  # a launch queue is timed over several steps, or only launching is timed
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(times[next(iter(times))]) < 5:
        for name, step in steps.items():
            step()  # not counted: it finds another's data in the caches, and another's threads still spinning
            elapsed = stopwatch(device)
            for _ in range(inner):
                step()
            times[name].append(elapsed() / inner)
    return {name: statistics.median(values) for name, values in times.items()}


def stopwatch(device: Device) -> Callable[[], float]:
    """Start to take the time; return a function that gives the milliseconds passed.

    On a GPU it is the GPU's own time, between two events in the queue into which both libraries put their work.
    """
    if device is CPU:
        start = time.perf_counter()
        return lambda: (time.perf_counter() - start) * 1e3
    device.synchronize()
    begin, end = device.xp.cuda.Event(), device.xp.cuda.Event()
    begin.record()

    def elapsed() -> float:
        end.record()
        end.synchronize()
        return device.xp.cuda.get_elapsed_time(begin, end)  # type: ignore[no-any-return]

    return elapsed


def ratio(times: dict[str, float]) -> float:
    """Return the package's time relative to the faster of PyTorch's two memory formats."""
    return times["xpcnn"] / min(times["nchw"], times["channels_last"])


def print_table(title: str, rows: list[dict[str, Any]]) -> None:
    """Print rows as Markdown, with the geometric mean of the ratios and the worst of them."""
    columns = list(rows[0]["ms"])
    memory = "MiB" in rows[0]
    heading = [*(name for name in ("network", "layer", "batch", "input") if name in rows[0])]
    names = len(heading)
    heading += [*(f"{column} ms" for column in columns), "ratio", *(["xpcnn MiB", "PyTorch MiB"] if memory else [])]
    print(f"\n### {title}\n\n| {' | '.join(heading)} |\n|{'---|' * len(heading)}")
    for row in rows:
        cells = [*(str(row[name]) for name in heading[:names]), *(f"{row['ms'][column]:.2f}" for column in columns)]
        cells.append(f"**{row['ratio']:.2f}**")
        if memory:
            cells += [f"{row['MiB']['xpcnn']:.1f}", f"{min(row['MiB']['nchw'], row['MiB']['channels_last']):.1f}"]
        print(f"| {' | '.join(cells)} |")
    ratios = [row["ratio"] for row in rows]
    print(f"\nGeometric mean of the ratios: **{exp(statistics.fmean(map(log, ratios))):.2f}**, worst {max(ratios):.2f}")
