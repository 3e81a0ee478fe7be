"""Times xpcnn against PyTorch: whole training steps, inference, peak memory, and single layers.

    python scripts/benchmark.py                # the full table, about ten minutes on two cores
    python scripts/benchmark.py --quick        # few rounds, small batches: a look, not a result
    python scripts/benchmark.py --layers       # every layer at three kinds of input, forward and backward
    python scripts/benchmark.py --laptop       # both held to AVX2, which is what most laptops have
    python scripts/benchmark.py --processes 2  # two processes against two threads
    python scripts/benchmark.py --device cuda  # both on the GPU, in float32 unless --precision is given
    python scripts/benchmark.py --set tile_bytes=1e6  # with another value of one of the device's properties

A step is forward, loss, backward and SGD with momentum. Each network is built once with xpcnn and translated module by
module, weights included, so both sides compute the same thing. All contenders take turns in one process, on the same
number of threads, and the median over the rounds counts: machines drift, ratios hold. The ratio is to the faster of
PyTorch's two memory formats. Memory is the growth of the peak resident set over 3 steps, in a process of its own; on a
GPU it is what the library has taken from it after that. On a GPU, `graph` is xpcnn's step recorded as a CUDA graph.
Inference has a further column for onnxruntime where onnx and onnxruntime are installed. They cannot be held to AVX2.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from typing import Any, NamedTuple

import numpy as np
from benchmark_layers import measure_layers
from benchmark_machine import hold_to_avx2, kernels, peak_resident, processor
from benchmark_onnx import available, onnx_step
from benchmark_processes import measure_processes, start_processes
from benchmark_torch import Step, print_table, random_images, ratio, take_turns, to_torch

import xpcnn
from xpcnn import Device, models, nn
from xpcnn.backend import CPU
from xpcnn.distributed import rank_started
from xpcnn.optim import SGD, GradScaler


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


class Network(NamedTuple):
    """A network of the table: a function that makes it, the shape of an image, and the batches it is measured with."""

    build: Callable[..., nn.Module]
    in_shape: tuple[int, int, int]
    training: tuple[int, ...]
    inference: tuple[int, ...] = (1, 256)
    gpu: tuple[int, ...] = (128, 1024)


MNIST, CIFAR = (1, 28, 28), (3, 32, 32)
NETWORKS = {
    "3-filter net": Network(models.numpy_cnn, MNIST, (4, 64)),
    "LeNet-5": Network(models.lenet5, MNIST, (4, 64, 256)),
    "conv 32-64": Network(two_conv_net, MNIST, (64, 256)),
    "three-layer 7×7": Network(models.three_layer_net, CIFAR, (50, 256)),
    "ResNet-20": Network(models.resnet20, CIFAR, (32, 128)),
    "VGG 64-128-256": Network(models.vgg, CIFAR, (32, 64)),
    "ResNet-18 224²": Network(models.resnet18, (3, 224, 224), (8,), (1, 8), (64, 256)),
    "MobileNetV2 128²": Network(models.mobilenet_v2, (3, 128, 128), (16,), (1, 16), (64, 256)),
    "ConvNeXt femto 64²": Network(models.convnext_femto, (3, 64, 64), (32,), (1, 32), (128, 1024)),
}


def make_batch(in_shape: tuple[int, int, int], batch: int) -> tuple[Any, Any]:
    """Return random images (channel-major memory, as the loader hands them out) and labels."""
    return random_images((batch, *in_shape)), np.random.default_rng(1).integers(0, 10, batch)


def our_step(model: nn.Module, images: Any, labels: Any, device: Device, train: bool, mixed: bool = False) -> Step:
    """Return a closure that runs one training step, or one inference, of xpcnn.

    Args:
        mixed: scale the loss, inside a block of mixed precision.
    """
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

    scaler = GradScaler()

    def mixed_step() -> None:
        optimizer.zero_grad()
        loss(model(x), y)
        model.backward(scaler.scale(loss.backward()), input_gradient=False)
        scaler.unscale(optimizer)
        scaler.step(optimizer)

    return mixed_step if mixed else step


def torch_step(
    model: nn.Module, images: Any, labels: Any, device: Device, train: bool, kind: str, mixed: bool = False
) -> Step:
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

    if not mixed:
        return step
    kind_of_device = device.name.partition(":")[0]
    scaler = torch.amp.GradScaler(kind_of_device)

    def mixed_step() -> None:
        optimizer.zero_grad()
        with torch.autocast(kind_of_device, torch.float16):
            value = loss(net(x), y)
        scaler.scale(value).backward()
        scaler.step(optimizer)
        scaler.update()

    return mixed_step


def peak_memory(network: str, batch: int, side: str, device: str) -> float:
    """Return by how many MiB three training steps raise a fresh process's peak memory."""
    command = [sys.executable, __file__, "--device", device, "--memory-of", network, str(batch), side]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure_memory(network: str, batch: int, side: str, threads: int, device: Device) -> None:
    """Print what `peak_memory` asks for; runs in the fresh process."""
    set_threads(threads, torch_too=side != "xpcnn")
    build, in_shape, *_ = NETWORKS[network]
    images, labels = make_batch(in_shape, batch)
    tiny = make_batch(in_shape, 2)

    def make(batch: tuple[Any, Any]) -> Step:
        model = build(in_shape, 10, seed=0)
        how = *batch, device, True
        return our_step(model, *how) if side == "xpcnn" else torch_step(model, *how, side)

    make(tiny)()  # libraries loaded and threads started, which is not the step's doing
    step = make((images, labels))
    before = peak_resident()
    for _ in range(3):
        step()
    print(peak_resident() - before if device.on_host else taken(device, side))


def taken(gpu: Device, side: str) -> float:
    """Return how many MiB a library has taken from a GPU."""
    if side == "xpcnn":
        return float(gpu.xp.get_default_memory_pool().total_bytes()) / 2**20
    import torch

    return float(torch.cuda.max_memory_reserved()) / 2**20


def compare(name: str, batch: int, args: argparse.Namespace, train: bool) -> dict[str, Any]:
    """Return one row of the table."""
    device = xpcnn.device(args.device)
    build, in_shape, *_ = NETWORKS[name]
    images, labels = make_batch(in_shape, batch)
    kinds = ["nchw", "channels_last", *(["compiled"] if args.compile else [])]
    how = device, train
    mixed = args.precision == "mixed"
    steps = {"xpcnn": our_step(build(in_shape, 10, seed=0), images, labels, *how, mixed)}
    if train and not device.on_host:
        steps["graph"] = device.recorded(our_step(build(in_shape, 10, seed=0), images, labels, *how, mixed)).run
    for kind in kinds:
        steps[kind] = torch_step(build(in_shape, 10, seed=0), images, labels, *how, kind, mixed)
    if not train and args.device == "cpu" and not args.laptop and available():
        steps["onnxruntime"] = onnx_step(build(in_shape, 10, seed=0), images, args.threads)
    row: dict[str, Any] = {"network": name, "batch": batch, "ms": take_turns(steps, device, args.seconds)}
    row["ratio"] = ratio(row["ms"])
    if train and args.memory:
        row["MiB"] = {side: peak_memory(name, batch, side, args.device) for side in ("xpcnn", "nchw", "channels_last")}
    return row


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
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="N processes against one of N threads")
    parser.add_argument("--compile", action="store_true", help="torch.compile as a further column (slow to start)")
    parser.add_argument("--laptop", action="store_true", help="hold all libraries to AVX2")
    text = "of both sides: tf32 on a GPU, or mixed, which measures training steps only"
    parser.add_argument("--precision", choices=["float32", "tf32", "mixed"], default="float32", help=text)
    parser.add_argument("--memory", action="store_true", help="peak memory too, each in a process of its own")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each row is measured")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=NUMBER", help="properties of xpcnn's device")
    parser.add_argument("--only", default="", help="networks or layers whose name contains this")
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    parser.add_argument("--memory-of", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.precision == "mixed" and (args.layers or args.memory):
        parser.error("--precision mixed is for the training steps of networks")
    if args.laptop:
        hold_to_avx2()
    if args.memory_of:
        network, batch, side = args.memory_of
        measure_memory(network, int(batch), side, args.threads, xpcnn.device(args.device))
        return
    if args.processes > 1:
        start_processes(args.processes)
    import torch

    set_threads(args.threads)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = args.precision == "tf32"
    if args.quick:
        args.seconds = 1.0
    change(xpcnn.device(args.device), args.set)
    with nn.autocast(args.precision, xpcnn.device(args.device)):
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
        **kernels(),
        "threads": args.threads,
        "precision": args.precision,
        "set": " ".join(args.set) or "nothing",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "xpcnn": xpcnn.__version__,
    }
    if rank_started() == 0:
        print(" | ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    results: dict[str, Any] = {"machine": machine}
    if args.processes > 1:
        results |= measure_processes(args, NETWORKS, make_batch, torch_step)
    elif args.layers:
        results |= measure_layers(xpcnn.device(args.device), args.only, args.seconds)
    else:
        chosen = {name: entry for name, entry in NETWORKS.items() if args.only in name}
        rows = []
        for name, network in chosen.items():
            batches = network.training if args.device == "cpu" else network.gpu
            for batch in batches[:1] if args.quick else batches:
                rows.append(compare(name, batch, args, train=True))
                print(f"{name}, batch {batch}: {rows[-1]['ratio']:.2f}", file=sys.stderr)
        results["training"] = rows
        print_table("Training step", rows)
        if not args.quick and args.precision != "mixed":  # in evaluation it is float32
            results["inference"] = [
                compare(name, batch, args, train=False) for name, entry in chosen.items() for batch in entry.inference
            ]
            print_table("Inference", results["inference"])
    if args.json and rank_started() == 0:
        with open(args.json, "w", encoding="utf-8") as file:  # noqa: PTH123
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
