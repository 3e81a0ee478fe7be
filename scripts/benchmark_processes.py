"""Times a training step in several processes against one process with as many threads, and PyTorch's better format.

    python scripts/benchmark.py --processes 2          # the option that runs this

Both have the same cores, and take turns in the same processes: for a while all processes step together, each with its
part of the batch and of the threads; then the first one steps alone, with all threads, while the others sleep. Batch
norm has the statistics of the whole batch, and in a further column ("local") those of each process's part.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from xpcnn import distributed, nn
from xpcnn.backend import CPU
from xpcnn.distributed import ALONE, Group
from xpcnn.optim import SGD

ROWS = {"LeNet-5": (64, 256), "VGG 64-128-256": (64,), "ResNet-20": (128,)}
TURN = 0.3  # seconds that a contender steps before the next one does
Step = Callable[[], None]


def start_processes(count: int) -> None:
    """Run this command in several processes, and end with their exit code; return if that was done already."""
    if distributed.processes_started() == 1:
        sys.exit(subprocess.call([distributed.mpiexec(), "-n", str(count), sys.executable, *sys.argv]))


def measure_processes(args: argparse.Namespace, networks: dict[str, Any], make_batch: Any, torch_step: Any) -> Any:
    """Print the table, and return its rows on the first process."""
    group, rows = distributed.join(), []
    for name, batch in ((name, batch) for name, batches in ROWS.items() for batch in batches if args.only in name):
        build, in_shape, *_ = networks[name]
        images, labels = make_batch(in_shape, batch)
        normalized = any(isinstance(module, nn.BatchNorm2d) for _, module in build(in_shape, 10).named_modules())
        contenders: dict[str, tuple[Step | None, int]] = {}  # the step, and its threads; None: the process sleeps
        for title, processes in (("together", group), *([("local", group)] if normalized else []), ("alone", ALONE)):
            here, model = processes is group or group.rank == 0, build(in_shape, 10, seed=0)
            step = our_step(model, images, labels, processes, title == "local") if here else None
            contenders[title] = step, max(1, args.threads // processes.size)
        for kind in ("nchw", "channels_last"):
            model = build(in_shape, 10, seed=0)
            step = torch_step(model, images, labels, CPU, True, kind) if group.rank == 0 else None
            contenders[kind] = step, args.threads
        ms = in_turns(contenders, args.seconds)
        if group.rank == 0:
            rows.append({"network": name, "batch": batch, "ms": ms, "ratio": ms["together"] / ms["alone"]})
            show(rows[-1], group.size, args.threads)
    return {"processes": rows}


def our_step(model: nn.Module, images: Any, labels: Any, group: Group, local: bool) -> Step:
    """Return a closure that runs one step of a group's training."""
    nn.synchronize(model.train(), group, local_batch_norm=local)
    part = group.part(len(labels))
    batches = group.steps(itertools.repeat((images[part], labels[part])))
    loss, optimizer = nn.GroupLoss(nn.CrossEntropyLoss(), group), SGD(model.named_parameters(), 0.01, momentum=0.9)

    def step() -> None:
        x, y = next(batches)
        optimizer.zero_grad()
        loss(model(x), y)
        model.backward(loss.backward(), input_gradient=False)
        if group.size > 1:
            group.sum(*optimizer.gather())
            nn.average_statistics(model, group)
        optimizer.step()

    return step


def in_turns(contenders: dict[str, tuple[Step | None, int]], seconds: float) -> dict[str, float]:
    """Return each contender's median time of a step in milliseconds."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    steps: dict[str, int] = {}
    for turn in range(1 + max(3, round(seconds / TURN / len(contenders)))):
        for name, (step, threads) in contenders.items():
            CPU.threads = threads
            wait()
            if step is not None:
                # As many steps on all processes: found in the first turn, which does not count.
                for _ in range(steps.get(name, 3)):
                    started = time.perf_counter()
                    step()
                    times[name].append(1e3 * (time.perf_counter() - started))
            if not turn:
                steps[name] = agreed(max(3, round(1e3 * TURN / min(times.pop(name) or [1e9]))))
                times[name] = []
    return {name: statistics.median(values or [0]) for name, values in times.items()}


def wait() -> None:
    """Wait for the other processes, asleep, so that those that compute have the cores for themselves."""
    from mpi4py import MPI

    request = MPI.COMM_WORLD.Ibarrier()
    while not request.Test():
        time.sleep(0.001)


def agreed(number: int) -> int:
    """Return the number of the first process."""
    return int(distributed.join().share(str(number).encode()))


def show(row: dict[str, Any], processes: int, threads: int) -> None:
    """Print a row."""
    each, ms = max(1, threads // processes), row["ms"]
    local = (
        f" ({ms['local']:.2f} ms with local batch norm, ratio {ms['local'] / ms['alone']:.2f})" if "local" in ms else ""
    )
    print(
        f"{row['network']}, batch {row['batch']}: {processes} processes × {each} thread(s) {ms['together']:.2f} ms, "
        f"1 × {threads} {ms['alone']:.2f} ms, ratio {row['ratio']:.2f}{local}; PyTorch, better format, "
        f"{min(ms['nchw'], ms['channels_last']):.2f} ms",
        flush=True,
    )
