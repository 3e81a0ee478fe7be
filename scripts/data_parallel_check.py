"""Is training by several processes that of one? In float64 it has to be, but for rounding.

    python scripts/data_parallel_check.py            # LeNet-5 and ResNet-20 in 2 and in 3 processes, 20 steps
    python scripts/data_parallel_check.py --sums     # also how long a sum takes, by the size of the message

For each network it prints the largest difference, relative to the largest number of each array, of the gradients of
the first step and of the weights after the last one; exit code 1 if one is beyond the limits in `LIMITS`. Batch norm
has the statistics of the whole batch. Batches of 62 images and a last one of 7 have parts of different sizes.

2026-11-21, two cores of an AMD EPYC (Zen 4), MPICH 5.0.2: LeNet-5 4.9e-16 and 1.1e-15, ResNet-20 1.8e-14 and 7.5e-13
at most, in 2 and in 3 processes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from xpcnn import Dataset, Loader, Trainer, distributed, models, nn, optim
from xpcnn.data import load_dataset
from xpcnn.distributed import ALONE, Group

LIMITS = {"LeNet-5": (1e-12, 1e-10), "ResNet-20": (1e-12, 1e-8)}  # of the first gradients, and of the last weights
MESSAGES = [1, 64, 1024, 16 << 10, 61_706, 272_474, 1 << 20, 11_173_962]  # in float32 numbers


def networks() -> dict[str, tuple[Callable[[], nn.Module], Dataset]]:
    """Return the networks by name, each with its images."""
    digits, rng = load_dataset("mnist-mini"), np.random.default_rng(0)
    colours = Dataset(rng.integers(0, 256, (255, 3, 32, 32), np.uint8), np.arange(255) % 10)
    return {"LeNet-5": (models.lenet5, digits.subset(slice(255))), "ResNet-20": (models.resnet20, colours)}


def train(build: Callable[[], nn.Module], data: Dataset, steps: int, group: Group) -> tuple[dict[str, Any], ...]:
    """Return the gradients of the first step, and the weights and buffers after the last one."""
    loader = Loader(data, 62, shuffle=True, dtype=np.float64, group=group)
    model = build().to(dtype=np.float64)
    optimizer = optim.SGD(model.named_parameters(), 0.05, momentum=0.9)
    first: dict[str, Any] = {}

    def keep(optimizer: optim.Optimizer) -> None:
        if not first:
            first.update({name: parameter.grad.copy() for name, parameter in optimizer.parameters.items()})

    trainer = Trainer(model, optimizer, before_step=keep, group=group)
    trainer.fit(loader, -(-steps // len(loader)))
    return first, model.state_dict()


def apart(found: dict[str, Any], expected: dict[str, Any]) -> float:
    """Return the largest difference, relative to the largest number of its array."""
    floats = [name for name, array in expected.items() if array.dtype.kind == "f"]
    return max(float(abs(found[name] - expected[name]).max() / abs(expected[name]).max()) for name in floats)


def compare(group: Group, steps: int) -> bool:
    """Print how far the group's training is from that of one process; return whether it is within the limits."""
    well = True
    for name, (build, data) in networks().items():
        alone, together = (train(build, data, steps, processes) for processes in (ALONE, group))
        differences = [apart(found, expected) for found, expected in zip(together, alone, strict=True)]
        well = well and all(found <= limit for found, limit in zip(differences, LIMITS[name], strict=True))
        if group.rank == 0:
            gradients, weights = (f"{difference:.1e}" for difference in differences)
            print(f"{name}, {group.size} processes: first gradients {gradients}, weights {weights}", flush=True)
    return well


def time_sums(group: Group) -> None:
    """Print the median time of a sum over the group, by the size of the message."""
    for count in MESSAGES:
        x, seconds = np.ones(count, np.float32), []
        for _ in range(50):
            group.any(False)  # begin together
            started = time.perf_counter()
            group.sum(x)
            seconds.append(time.perf_counter() - started)
            x[:] = 1
        if group.rank == 0:
            print(f"sum of {x.nbytes:>11,} bytes: {1e6 * float(np.median(seconds)):9.1f} µs", flush=True)


def main() -> int:
    """Start itself in several processes, where it compares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 3])
    parser.add_argument("--sums", action="store_true")
    args = parser.parse_args()
    if distributed.processes_started() == 1:
        command = [sys.executable, *sys.argv]
        codes = [subprocess.call([distributed.mpiexec(), "-n", str(count), *command]) for count in args.processes]
        return max(codes)
    group = distributed.join()
    if args.sums:
        time_sums(group)
    return 0 if compare(group, args.steps) else 1


if __name__ == "__main__":
    sys.exit(main())
