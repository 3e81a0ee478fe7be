"""Times xpcnn against PyTorch: whole training steps, inference, peak memory, and single layers.

    python scripts/benchmark.py                # the full table, about ten minutes on two cores
    python scripts/benchmark.py --quick        # few rounds, small batches: a look, not a result
    python scripts/benchmark.py --layers       # single layers, forward and backward, to see where time goes
    python scripts/benchmark.py --device cuda  # both on the GPU, without TF32 unless --tf32 is given
    python scripts/benchmark.py --set tile_bytes=1e6  # with another value of one of the device's properties

A step is forward, loss, backward and SGD with momentum. Each network is built once with xpcnn and translated module by
module, weights included, so both sides compute the same thing. All contenders take turns in one process, on the same
number of threads, and the median over the rounds counts: machines drift, ratios hold. The ratio is to the faster of
PyTorch's two memory formats. Memory is the growth of the peak resident set over 3 steps, in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import date
from math import exp, log
from typing import Any

import numpy as np

import xpcnn
from xpcnn import Device, models, nn
from xpcnn.backend import CPU
from xpcnn.optim import SGD

Step = Callable[[], Any]


def two_conv_net(in_shape: tuple[int, int, int], classes: int, *, seed: int = 0) -> nn.Sequential:
    """The usual MNIST example: 32 and 64 filters of 3×3, each halved by pooling, then 128 hidden units."""
    rng = np.random.default_rng(seed)
    return nn.Sequential(
        nn.Conv2d(in_shape[0], 32, 3, padding=1, rng=rng),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1, rng=rng),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * (in_shape[1] // 4) * (in_shape[2] // 4), 128, rng=rng),
        nn.ReLU(),
        nn.Linear(128, classes, rng=rng),
    )


MNIST, CIFAR = (1, 28, 28), (3, 32, 32)
NETWORKS: dict[str, tuple[Callable[..., nn.Module], tuple[int, int, int], tuple[int, ...]]] = {
    "3-filter net": (models.numpy_cnn, MNIST, (4, 64)),
    "LeNet-5": (models.lenet5, MNIST, (4, 64, 256)),
    "conv 32-64": (two_conv_net, MNIST, (64, 256)),
    "three-layer 7×7": (models.three_layer_net, CIFAR, (50, 256)),
    "ResNet-20": (models.resnet20, CIFAR, (32, 128)),
    "VGG 64-128-256": (models.vgg, CIFAR, (32, 64)),
}
GPU_BATCHES = (128, 1024)
LAYERS = {  # name: (C, O, kernel, image side, batch, padding)
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


def to_torch(module: nn.Module) -> Any:
    """Translate a module into PyTorch's, with its options and weights."""
    import torch

    t = torch.nn
    if isinstance(module, nn.Sequential):
        made = t.Sequential(*(to_torch(child) for child in module))
    elif isinstance(module, nn.Residual):
        made = _torch_residual(module)
    elif isinstance(module, nn.GlobalAvgPool2d):
        made = t.Sequential(t.AdaptiveAvgPool2d(1), t.Flatten())
    elif isinstance(module, nn.Conv2d):
        made = t.Conv2d(
            module.in_channels,
            module.out_channels,
            module.kernel_size,
            bias=module.bias is not None,
            **{name: getattr(module, name) for name in ("stride", "padding", "dilation", "groups")},
        )
    elif isinstance(module, nn.Linear):
        made = t.Linear(module.in_features, module.out_features, module.bias is not None)
    elif isinstance(module, nn.BatchNorm2d):
        made = t.BatchNorm2d(len(module.weight.data))
    elif isinstance(module, nn.GroupNorm):
        made = t.GroupNorm(module.num_groups, module.num_channels, module.eps, module.weight is not None)
    elif isinstance(module, nn.LayerNorm2d):
        made = _torch_layer_norm2d(module)
    elif isinstance(module, nn.MaxPool2d):
        made = t.MaxPool2d(
            **{name: getattr(module, name) for name in ("kernel_size", "stride", "padding", "dilation", "ceil_mode")}
        )
    elif isinstance(module, nn.ReLU):
        made = t.ReLU()
    elif isinstance(module, nn.Flatten):
        made = t.Flatten()
    else:
        raise NotImplementedError(f"{type(module).__name__} has no translation here")
    state = {name: torch.tensor(xpcnn.backend.to_host(array)) for name, array in module.state_dict().items()}
    if not isinstance(module, nn.Sequential | nn.Residual) and state:
        made.load_state_dict(state)
    return made


def _torch_layer_norm2d(module: nn.LayerNorm2d) -> Any:
    import torch

    class LayerNorm2d(torch.nn.LayerNorm):
        """As torchvision's."""

        def forward(self, x: Any) -> Any:
            return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    return LayerNorm2d(module.num_channels, module.eps, module.weight is not None, module.bias is not None)


def _torch_residual(module: nn.Residual) -> Any:
    import torch

    class Residual(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.main = to_torch(module.main)
            self.shortcut = torch.nn.Identity() if module.shortcut is None else to_torch(module.shortcut)
            self.activation = torch.nn.Identity() if module.activation is None else to_torch(module.activation)

        def forward(self, x: Any) -> Any:
            return self.activation(self.main(x) + self.shortcut(x))

    return Residual()


def make_batch(in_shape: tuple[int, int, int], batch: int) -> tuple[Any, Any]:
    """Return random images (channel-major memory, as the loader hands them out) and labels."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((*in_shape, batch), np.float32).transpose(3, 0, 1, 2)
    return images, rng.integers(0, 10, batch)


def our_step(model: nn.Module, images: Any, labels: Any, device: Device, train: bool) -> Step:
    """Return a closure that runs one training step, or one inference, of xpcnn."""
    model.to(device).train(train)
    x, y = device.asarray(images), device.asarray(labels)
    if not train:
        return lambda: model(x)
    loss, optimizer = nn.CrossEntropyLoss(), SGD(model.named_parameters(), 0.01, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        loss(model(x), y)
        model.backward(loss.backward(), input_gradient=False)
        optimizer.step()

    return step


def torch_step(model: nn.Module, images: Any, labels: Any, device: Device, train: bool, kind: str) -> Step:
    """Return a closure that runs one training step, or one inference, of PyTorch."""
    import torch

    layout = torch.contiguous_format if kind == "nchw" else torch.channels_last
    net = to_torch(model).to(device.name, memory_format=layout).train(train)
    if kind == "compiled":
        net = torch.compile(net)
    x = torch.tensor(np.ascontiguousarray(images)).to(device.name, memory_format=layout)
    y = torch.tensor(labels).to(device.name)
    if not train:

        def infer() -> None:
            with torch.inference_mode():
                net(x)

        return infer
    loss = torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        loss(net(x), y).backward()
        optimizer.step()

    return step


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


def peak_memory(network: str, batch: int, side: str) -> float:
    """Return by how many MiB three training steps raise a fresh process's peak memory."""
    command = [sys.executable, __file__, "--memory-of", network, str(batch), side]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure_memory(network: str, batch: int, side: str, threads: int) -> None:
    """Print what `peak_memory` asks for; runs in the fresh process."""
    set_threads(threads, torch_too=side != "xpcnn")
    build, in_shape, _ = NETWORKS[network]
    images, labels = make_batch(in_shape, batch)
    tiny = make_batch(in_shape, 2)

    def make(batch: tuple[Any, Any]) -> Step:
        model = build(in_shape, 10, seed=0)
        return our_step(model, *batch, CPU, True) if side == "xpcnn" else torch_step(model, *batch, CPU, True, side)

    make(tiny)()  # libraries loaded and threads started, which is not the step's doing
    step = make((images, labels))
    before = peak_resident()
    for _ in range(3):
        step()
    print(peak_resident() - before)


def peak_resident() -> float:
    """Return the peak of this process's resident set in MiB."""
    try:
        # Unlike getrusage's figure, this one does not begin with the peak of the process that started this one.
        with open("/proc/self/status", encoding="utf-8") as file:  # noqa: PTH123
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def compare(name: str, batch: int, args: argparse.Namespace, train: bool) -> dict[str, Any]:
    """Return one row of the table."""
    device = xpcnn.device(args.device)
    build, in_shape, _ = NETWORKS[name]
    images, labels = make_batch(in_shape, batch)
    kinds = ["nchw", "channels_last", *(["compiled"] if args.compile else [])]
    steps = {"xpcnn": our_step(build(in_shape, 10, seed=0), images, labels, device, train)}
    for kind in kinds:
        steps[kind] = torch_step(build(in_shape, 10, seed=0), images, labels, device, train, kind)
    row: dict[str, Any] = {"network": name, "batch": batch, "ms": take_turns(steps, device, args.seconds)}
    row["ratio"] = row["ms"]["xpcnn"] / min(row["ms"]["nchw"], row["ms"]["channels_last"])
    if train and args.memory:
        row["MiB"] = {side: peak_memory(name, batch, side) for side in ("xpcnn", "nchw", "channels_last")}
    return row


def compare_layer(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Return one convolution's times, forward and backward; the first layers without the gradient of their input."""
    import torch

    C, O, kernel, side, batch, padding = LAYERS[name]
    device = xpcnn.device(args.device)
    inner = C > 3
    images, _ = make_batch((C, side, side), batch)
    layer = nn.Conv2d(C, O, kernel, padding=padding).to(device)
    x = device.asarray(images)
    dy = layer(x)

    def ours() -> None:
        layer.zero_grad()
        layer(x)
        layer.backward(dy, input_gradient=inner)

    def theirs(layout: Any) -> Step:
        net = to_torch(layer).to(device.name, memory_format=layout)
        tx = torch.tensor(np.ascontiguousarray(images)).to(device.name, memory_format=layout).requires_grad_(inner)
        tdy = net(tx).detach()

        def step() -> None:
            net.zero_grad()
            tx.grad = None
            net(tx).backward(tdy)

        return step

    steps = {"xpcnn": ours, "nchw": theirs(torch.contiguous_format), "channels_last": theirs(torch.channels_last)}
    times = take_turns(steps, device, args.seconds)
    ratio = times["xpcnn"] / min(times["nchw"], times["channels_last"])
    return {"network": name, "batch": batch, "ms": times, "ratio": ratio}


def print_table(title: str, rows: list[dict[str, Any]]) -> None:
    """Print rows as Markdown, with the geometric mean of the ratios."""
    columns = list(rows[0]["ms"])
    memory = "MiB" in rows[0]
    heading = ["network", "batch", *(f"{column} ms" for column in columns), "ratio"]
    heading += ["xpcnn MiB", "PyTorch MiB"] if memory else []
    print(f"\n### {title}\n\n| {' | '.join(heading)} |\n|{'---|' * len(heading)}")
    for row in rows:
        cells = [row["network"], str(row["batch"]), *(f"{row['ms'][column]:.2f}" for column in columns)]
        cells.append(f"**{row['ratio']:.2f}**")
        if memory:
            cells += [f"{row['MiB']['xpcnn']:.1f}", f"{min(row['MiB']['nchw'], row['MiB']['channels_last']):.1f}"]
        print(f"| {' | '.join(cells)} |")
    print(f"\nGeometric mean of the ratios: **{exp(statistics.fmean(log(row['ratio']) for row in rows)):.2f}**")


def set_threads(count: int, torch_too: bool = True) -> None:
    """Hold both libraries to the same number of threads."""
    CPU.threads = count
    if torch_too:
        import torch

        torch.set_num_threads(count)


def main() -> None:
    """Parse the options, run the parts that are asked for, and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=CPU.threads)
    parser.add_argument("--quick", action="store_true", help="smallest batch of each network, one second each")
    parser.add_argument("--layers", action="store_true", help="single layers instead of networks")
    parser.add_argument("--compile", action="store_true", help="torch.compile as a further column (slow to start)")
    parser.add_argument("--tf32", action="store_true", help="let both sides use TF32 in products on a GPU")
    parser.add_argument("--memory", action="store_true", help="peak memory too, each in a process of its own")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each row is measured")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=NUMBER", help="properties of xpcnn's device")
    parser.add_argument("--only", default="", help="networks or layers whose name contains this")
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    parser.add_argument("--memory-of", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of:
        network, batch, side = args.memory_of
        measure_memory(network, int(batch), side, args.threads)
        return
    import torch

    set_threads(args.threads)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = args.tf32
    if args.quick:
        args.seconds = 1.0
    change(xpcnn.device(args.device), args.set)
    with xpcnn.device(args.device).allow_tf32() if args.tf32 else nullcontext():
        report(args)


def change(device: Device, settings: list[str]) -> None:
    """Give properties of a device, such as `tile_bytes`, other values."""
    for setting in settings:
        name, _, number = setting.partition("=")
        if not isinstance(getattr(device, name, None), int | float):
            raise SystemExit(f"benchmark: {device.name} has no property {name} that is a number")
        setattr(device, name, type(getattr(device, name))(float(number)))


def report(args: argparse.Namespace) -> None:
    """Measure what was asked for, print tables and write the figures."""
    import torch

    machine = {
        "date": date.today().isoformat(),
        "device": xpcnn.device(args.device).description,
        "processor": processor(),
        "threads": args.threads,
        "tf32": args.tf32,
        "set": " ".join(args.set) or "nothing",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "xpcnn": xpcnn.__version__,
    }
    print(" | ".join(f"{name} {value}" for name, value in machine.items()))
    results: dict[str, Any] = {"machine": machine}
    if args.layers:
        results["layers"] = [compare_layer(name, args) for name in LAYERS if args.only in name]
        print_table("Convolutions, forward and backward", results["layers"])
    else:
        chosen = {name: entry for name, entry in NETWORKS.items() if args.only in name}
        rows = []
        for name, (_, _, batches) in chosen.items():
            batches = batches if args.device == "cpu" else GPU_BATCHES
            for batch in batches[:1] if args.quick else batches:
                rows.append(compare(name, batch, args, train=True))
                print(f"{name}, batch {batch}: {rows[-1]['ratio']:.2f}", file=sys.stderr)
        results["training"] = rows
        print_table("Training step", rows)
        if not args.quick:
            results["inference"] = [compare(name, batch, args, train=False) for name in chosen for batch in (1, 256)]
            print_table("Inference", results["inference"])
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:  # noqa: PTH123
            json.dump(results, file, indent=1)


def processor() -> str:
    """Return the processor's name where the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
