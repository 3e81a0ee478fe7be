"""All that only a GPU can show, in one go: parity with the CPU, training to the same accuracy, speed beside PyTorch.

    python scripts/gpu_check.py --output gpu-report             # from a clone; nothing needs to be installed but CuPy
    python scripts/gpu_check.py --output rehearsal --rehearse   # the same script in small, on the CPU: proves nothing

It runs 20 steps of LeNet-5 and of ResNet-20 recorded on the CPU and checked on the GPU (in float32, float64 and mixed
precision, LeNet-5 in TF32, too), NCCL's sums (between two processes where there are two GPUs and mpi4py), LeNet-5 to
its accuracy on the embedded data set on both devices, the speed of dropout's masks, `scripts/benchmark.py --device
cuda` in each precision (the steps as a CUDA graph, too), that beside `torch.compile`, with memory, and with other tile
sizes and ways to convolve, the same on the CPU with 1 to 16 threads, and the whole test suite with the GPU required.
Into the folder go `report.json`, `report.md`, and the output of every part. Exit codes: 0 all is well, 1 something is
not, 2 there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import xpcnn  # noqa: E402
from xpcnn import Device, DeviceUnavailableError, __version__, available_devices  # noqa: E402
from xpcnn.data import load_dataset  # noqa: E402
from xpcnn.parity import TraceConfig, run  # noqa: E402
from xpcnn.training import evaluate  # noqa: E402
from xpcnn.training.config import RunConfig  # noqa: E402

Result = tuple[bool, str, Any]  # whether it is well, one line for people, figures for machines


def tests(gpu: Device, folder: Path, rehearse: bool) -> Result:
    """Run the test suite, which has every layer and option in it, with the GPU required."""
    chosen = ["tests/testing/test_assertions.py"] if rehearse else ["tests"]
    environment = {} if rehearse else {"XPCNN_REQUIRE_GPU": "1"}
    code, output = call([sys.executable, "-m", "pytest", "-q", "-n", "4", *chosen], folder / "tests.txt", environment)
    return code == 0, last_line(output).strip("= "), {"exit_code": code}


def parity(gpu: Device, folder: Path, rehearse: bool, model: str, precision: str = "float32") -> Result:
    """Record 20 steps on the CPU and check them on the GPU."""
    options: dict[str, Any] = {"steps": 2, "batch_size": 4} if rehearse else {}
    options |= {"mixed": {"precision": "mixed"}, "float64": {"dtype": "float64"}}.get(precision, {})
    checked = "tf32" if precision == "tf32" and not rehearse else None
    (report,) = run(TraceConfig(model=model, **options), ["cpu", gpu], precision=checked)
    name = f"parity-{model}-{precision}.txt"
    (folder / name).write_text(report.text() + "\n", encoding="utf-8")
    closest = max(report.comparisons, key=lambda comparison: comparison.severity)
    worst = f"; nearest to its tolerance: {closest.layer} {closest.direction}, {closest.severity:.2f} of it"
    return report.agrees, report.verdict + worst, report.to_dict()


def processes(gpu: Device, folder: Path, rehearse: bool) -> Result:
    """Compare ResNet-20 in two processes, a GPU each, with one process; with one GPU, call NCCL in a group of one."""
    gpus = [device for device in available_devices()[0] if not device.on_host]
    if rehearse or len(gpus) > 1:
        options = ["--batch-size", "4", "--steps", "2"] if rehearse else ["--model", "resnet20"]
        command = ["-m", "xpcnn", "parity", "run", "--devices", "cpu" if rehearse else "cuda", "--processes", "1,2"]
    else:
        command, options = ["-c", ALONE_ON_A_GPU], []
    code, output = call([sys.executable, *command, *options], folder / "processes.txt")
    return code == 0, last_line(output), {"exit_code": code, "gpus": len(gpus)}


ALONE_ON_A_GPU = """
import cupy
from xpcnn import distributed
group = distributed.join(always=True)
x = cupy.arange(1000, dtype=cupy.float32)
group.sum(x)
group.broadcast(x)
assert (group.gather(x)[0] == cupy.arange(1000)).all()
print("NCCL sums, gathers and broadcasts in a group of", group.size)
"""


def accuracy(gpu: Device, folder: Path, rehearse: bool) -> Result:
    """Train LeNet-5 from one seed on both devices."""
    config = RunConfig(epochs=1 if rehearse else 6)
    train, test = (load_dataset(config.data, part) for part in ("train", "test"))
    if rehearse:
        train, test = train.subset(slice(512)), test.subset(slice(512))
    found: dict[str, Any] = {}
    for place, device in (("cpu", xpcnn.device("cpu")), ("gpu", gpu)):
        loader = config.make_loader(train, train=True, device=device)
        model = config.make_model(train).to(device)
        started = time.perf_counter()
        config.make_trainer(model, config.epochs * len(loader), ()).fit(loader, config.epochs)
        seconds = time.perf_counter() - started
        result = evaluate(model, config.make_loader(test, train=False, device=device))
        found[place] = {"device": device.name, "accuracy": result.accuracy, "loss": result.loss, "seconds": seconds}
    ours, theirs = found["gpu"]["accuracy"], found["cpu"]["accuracy"]
    line = f"test accuracy {ours:.2%} on {gpu.name} ({found['gpu']['seconds']:.1f} s), {theirs:.2%} on cpu"
    return abs(ours - theirs) <= 0.003 and (rehearse or ours >= 0.98), line, found


def dropout(gpu: Device, folder: Path, rehearse: bool) -> Result:
    """Time dropout's masks beside NumPy's generator."""
    options = ["--sizes", "1000", "--rounds", "2"] if rehearse else ["--device", gpu.name]
    code, output = call([sys.executable, "scripts/benchmark_dropout.py", *options], folder / "dropout.txt")
    return code == 0, last_line(output), {"exit_code": code}


def speed(gpu: Device, folder: Path, rehearse: bool, precision: str = "float32") -> Result:
    """Time training steps beside PyTorch on the same GPU."""
    name = f"benchmark-{precision}"
    options = ["--quick", "--only", "3-filter", "--seconds", "0.1"]
    if not rehearse:
        options = ["--device", "cuda", "--seconds", "2"]
    options += ["--precision", precision] if precision != "tf32" or not rehearse else []
    options += ["--memory"] if precision == "float32" else []
    figures, last = benchmark(folder, name, options)
    return figures is not None, f"see {name}.txt; last line: {last}", figures


def compiled(gpu: Device, folder: Path, rehearse: bool) -> Result:
    """Time training steps of two networks beside `torch.compile`, too."""
    lines, found = [], {}
    for name in ("3-filter",) if rehearse else ("LeNet-5", "ResNet-20"):
        options = ["--quick", "--only", name, *([] if rehearse else ["--device", "cuda", "--compile"])]
        figures, last = benchmark(folder, f"compiled-{name}", options)
        if figures is None:
            return False, f"{name}: {last}", found
        (row,) = figures["training"]
        found[name] = row["ms"]
        lines.append(f"{name}: " + ", ".join(f"{side} {ms:.2f} ms" for side, ms in row["ms"].items()))
    return True, "; ".join(lines), found


def cores(gpu: Device, folder: Path, rehearse: bool) -> Result:
    """Time training steps on the CPU beside PyTorch, both with 1 to 16 threads."""
    found: dict[str, Any] = {}
    lines = []
    for threads in (1,) if rehearse else (1, 2, 4, 8, 16):
        options = ["--quick", "--threads", str(threads), *(["--only", "3-filter"] if rehearse else [])]
        figures, last = benchmark(folder, f"threads-{threads}", options)
        if figures is None:
            return False, f"{threads} threads: {last}", found
        found[str(threads)] = {row["network"]: (row["ms"]["xpcnn"], row["ratio"]) for row in figures["training"]}
        ratios = [row["ratio"] for row in figures["training"]]
        lines.append(f"{threads} threads: {geometric_mean(ratios):.2f} of PyTorch's time, worst {max(ratios):.2f}")
    return True, "; ".join(lines), found


def levers(gpu: Device, folder: Path, rehearse: bool) -> Result:
    """Time training steps with other values of the device's properties, none of which was chosen on a GPU."""
    tile, launch = gpu.tile_bytes, gpu.launch_bytes
    settings = ["", f"tile_bytes={tile // 8}", f"tile_bytes={tile * 2}", f"launch_bytes={launch // 8}"]
    settings += [f"launch_bytes={launch * 8}", "winograd_channels=64", "winograd_channels=128"]
    lines, found = [], {}
    for setting in settings[1:2] if rehearse else settings:
        options = ["--quick", "--only", "3-filter", "--seconds", "0.1"]
        if not rehearse:
            options = ["--device", "cuda", "--only", "VGG", "--seconds", "2"]
        options += ["--set", setting] if setting else []
        name = setting or "as it is"
        figures, last = benchmark(folder, "levers", options)
        if figures is None:
            return False, f"{name}: {last}", found
        found[name] = {str(row["batch"]): row["ms"]["xpcnn"] for row in figures["training"]}
        lines.append(f"{name}: " + ", ".join(f"{ms:.2f} ms" for ms in found[name].values()))
    return True, "; ".join(lines), found


def benchmark(folder: Path, name: str, options: Sequence[str]) -> tuple[Any, str]:
    """Run `benchmark.py`; return its figures, None if it failed, and the last line of its output."""
    figures = (folder / f"{name}.json").resolve()
    command = [sys.executable, "scripts/benchmark.py", "--json", str(figures), *options]
    code, output = call(command, folder / f"{name}.txt")
    return (json.loads(figures.read_text()) if code == 0 else None), last_line(output)


def last_line(output: str) -> str:
    """Return the last line with something in it."""
    return next((line for line in reversed(output.splitlines()) if line.strip()), "no output")


def call(command: Sequence[str], log: Path, environment: dict[str, str] | None = None) -> tuple[int, str]:
    """Run a command in the clone, keep its output, and return its exit code and output."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    variables = os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"} | (environment or {})
    result = subprocess.run(
        command, cwd=ROOT, env=variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    log.write_text(result.stdout, encoding="utf-8")
    return result.returncode, result.stdout


PARTS: dict[str, Callable[[Device, Path, bool], Result]] = {
    "parity, LeNet-5, float32": lambda *a: parity(*a, "lenet5"),
    "parity, LeNet-5, float64": lambda *a: parity(*a, "lenet5", "float64"),
    "parity, LeNet-5, TF32": lambda *a: parity(*a, "lenet5", "tf32"),
    "parity, LeNet-5, mixed": lambda *a: parity(*a, "lenet5", "mixed"),
    "parity, ResNet-20, float32": lambda *a: parity(*a, "resnet20"),
    "parity, ResNet-20, float64": lambda *a: parity(*a, "resnet20", "float64"),
    "parity, ResNet-20, mixed": lambda *a: parity(*a, "resnet20", "mixed"),
    "processes": processes,
    "accuracy": accuracy,
    "dropout": dropout,
    "speed": speed,
    "speed, TF32": lambda *a: speed(*a, "tf32"),
    "speed, mixed": lambda *a: speed(*a, "mixed"),
    "compiled": compiled,
    "cores": cores,
    "levers": levers,
    "tests": tests,
}


def main() -> int:
    """Run all parts and write the reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("gpu-report"), help="folder for the reports")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU and in small, to test this script")
    parser.add_argument("--only", default="", help="only the parts whose name contains this")
    options = parser.parse_args()
    try:
        gpu = xpcnn.device("cpu" if options.rehearse else "cuda")
    except DeviceUnavailableError as error:
        print(f"gpu_check: no GPU: {error}", file=sys.stderr)
        return 2
    options.output.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {
        "rehearsal": options.rehearse,
        "date": time.strftime("%Y-%m-%d"),
        "device": {"name": gpu.name, "description": gpu.description},
        "versions": {"xpcnn": __version__, "python": platform.python_version()} | installed(),
        "parts": {},
    }
    for name, part in PARTS.items():
        if options.only.lower() not in name.lower():
            continue
        started = time.perf_counter()
        try:
            well, line, figures = part(gpu, options.output, options.rehearse)
        except Exception as error:  # one part that fails must not keep the others from running
            (options.output / "errors.txt").open("a", encoding="utf-8").write(f"{name}\n{traceback.format_exc()}\n")
            well, line, figures = False, f"{type(error).__name__}: {error}", None
        seconds = time.perf_counter() - started
        report["parts"][name] = {"well": well, "line": line, "seconds": round(seconds, 1), "figures": figures}
        print(f"{'well ' if well else 'WRONG'}  {name} ({seconds:.0f} s): {line}", flush=True)
        write(report, options.output)
    return 0 if report["parts"] and all(part["well"] for part in report["parts"].values()) else 1


def installed() -> dict[str, str]:
    """Return the versions of what is measured with, as far as it is there."""
    from importlib import metadata

    names = ["numpy", "torch", "cupy", "cupy-cuda12x", "cupy-cuda13x", "mpi4py", "safetensors", "pytest"]
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def write(report: dict[str, Any], folder: Path) -> None:
    """Write both reports; called after each part, so that an interruption leaves those that are done."""
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    device, versions = report["device"], ", ".join(f"{name} {value}" for name, value in report["versions"].items())
    lines = ["# GPU check" + (" (a rehearsal on the CPU: it proves nothing)" if report["rehearsal"] else ""), ""]
    lines += [f"{report['date']}, {device['name']}: {device['description']}. {versions}.", ""]
    lines += ["| part | well | seconds | result |", "| --- | --- | --- | --- |"]
    for name, part in report["parts"].items():
        line = " ".join(part["line"].replace("|", "/").split())
        lines.append(f"| {name} | {'yes' if part['well'] else 'NO'} | {part['seconds']} | {line} |")
    if (folder / "benchmark-float32.txt").exists():
        lines += ["", "```", (folder / "benchmark-float32.txt").read_text(encoding="utf-8").strip(), "```"]
    (folder / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
