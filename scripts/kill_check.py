"""Kills training runs with `kill -9`, resumes them, and compares each with a run that nothing interrupted.

    python scripts/kill_check.py                  # 50 kills at random moments and 50 at chosen ones: about 2 minutes
    python scripts/kill_check.py --random 500     # more of them, with --seed N at other moments

A chosen moment is just before one of the run's file operations: making the folder, opening, flushing and renaming a
file. At a flush (`fsync`) the file is cut to half its length first, as a power failure might do. A checkpoint is
written after every step, after a few, or at the ends of epochs only. A third of the runs is killed again when resumed.

A run passes if it ends with the bits of the uninterrupted one in weights and optimizer state, with the same history
(times aside, so every epoch once), and with no temporary file. Exit codes: 0 all pass, 1 one does not.

2026-11-21, two cores, Python 3.11, ext4: 50 kills at chosen moments and 50 at random ones, no fault, in 147 s.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

EPOCHS, IMAGES = 3, 320
TIMES = ("seconds", "images_per_second")


def start(*arguments: str, moment: int = 0, **options: Any) -> subprocess.Popen[str]:
    """Start `xpcnn` with these arguments on a few images, to kill itself at a moment, counted from 1; 0 for never."""
    command = [sys.executable, str(Path(__file__).resolve()), "--child", str(moment), *arguments]
    options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True} | options
    return subprocess.Popen(command, **options)


def train(folder: Path, *options: str, **more: Any) -> subprocess.Popen[str]:
    """Start a new run in a folder, or resume the one in it if it has a configuration."""
    where = ["--resume", str(folder)]
    if not (folder / "config.json").exists():
        where = ["--output", str(folder), "--model", "lenet5", "--epochs", str(EPOCHS)]
    return start("train", "--device", "cpu", "--threads", "1", *where, *options, **more)


def finish(process: subprocess.Popen[str]) -> int:
    """Wait for a process and return its exit code, negative if it was killed; print its errors if it failed."""
    _, errors = process.communicate()
    if process.returncode not in (0, -signal.SIGKILL):
        print(errors, file=sys.stderr)
    return process.returncode


def result(folder: Path) -> dict[str, Any]:
    """Return the arrays and the history of a finished run, without its times."""
    from xpcnn.training import Checkpoint, read_history

    checkpoint = Checkpoint.load(folder / "checkpoint.safetensors")
    histories = (checkpoint.info["records"], read_history(folder / "history.jsonl"))
    kept, written = ([{k: v for k, v in r.items() if k not in TIMES} for r in records] for records in histories)
    parts = {"model": checkpoint.model, "optimizer": checkpoint.optimizer}
    arrays = {f"{part}.{name}": array.tobytes() for part in parts for name, array in parts[part].items()}
    names = sorted(path.name for path in folder.iterdir())
    return {"records": kept, "history": written, "arrays": arrays, "files": names}


def difference(folder: Path, expected: dict[str, Any]) -> str:
    """Return how a finished run differs from the uninterrupted one; "" if it does not."""
    found = result(folder)
    epochs = [record["epoch"] for record in found["history"]]
    if epochs != list(range(1, EPOCHS + 1)):
        return f"the history has the epochs {epochs}"
    return ", ".join(key for key in expected if found[key] != expected[key])


def count_moments(folder: Path, *options: str) -> int:
    """Train without interruption, and return how many moments there were."""
    process = train(folder, *options, env=os.environ | {"COUNT_MOMENTS": "1"})
    _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(errors)
    return int(errors.splitlines()[-1])


def child(moment: int, arguments: list[str]) -> int:
    """Run the command line on a few images, and die at a moment."""
    from xpcnn.cli import main, train
    from xpcnn.data import load_dataset
    from xpcnn.training import run

    def few(name: str, split: str, data_dir: str | None = None) -> Any:
        return load_dataset(name, split, data_dir).subset(slice(IMAGES if split == "train" else 64))

    run.load_dataset = few
    train._draw = lambda run: None
    given = [value for option, value in itertools.pairwise(arguments) if option in ("--output", "--resume")]
    folder = Path(*given).absolute()
    passed = 0

    def pass_moment(number: int | None = None) -> None:
        nonlocal passed
        passed += 1
        if passed == moment:
            if number is not None:
                with contextlib.suppress(OSError):  # a folder
                    os.ftruncate(number, os.fstat(number).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(event: str, values: tuple[Any, ...]) -> None:
        if event in ("open", "os.rename", "os.remove", "os.mkdir") and isinstance(values[0], str | os.PathLike):
            path = Path(values[0]).absolute()
            if path == folder or folder in path.parents:
                pass_moment()

    fsync = os.fsync

    def watched_fsync(number: int) -> None:
        pass_moment(number)
        fsync(number)

    os.fsync = watched_fsync  # the interpreter has no event for it
    sys.addaudithook(watch)
    code = main(arguments)
    if "COUNT_MOMENTS" in os.environ:
        print(passed, file=sys.stderr)
    return code


def killed_at(folder: Path, moment: int, *options: str) -> int:
    """Start or resume a run that dies at a moment, and return its exit code: 0 if it ended before."""
    return finish(train(folder, *options, moment=moment))


def killed_after(folder: Path, seconds: float, *options: str) -> int:
    """Start or resume a run, kill it after some time, and return its exit code: 0 if it ended before."""
    process = train(folder, *options)
    time.sleep(seconds)
    process.kill()
    return finish(process)


def fault_when_resumed(folder: Path, expected: dict[str, Any], *options: str) -> str:
    """Resume a run to its end, and return what is wrong with it; "" if nothing is."""
    code = finish(train(folder, *options))
    return f"exit code {code}" if code else difference(folder, expected)


def main() -> int:
    """Kill, resume and compare; return the exit code."""
    parser = argparse.ArgumentParser(description="Kill training runs, resume them and compare.")
    parser.add_argument("--random", type=int, default=50, metavar="N", help="kills at random moments (50)")
    parser.add_argument("--chosen", type=int, default=50, metavar="N", help="kills at chosen moments (50)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the random moments (0)")
    args = parser.parse_args()
    draw, began = random.Random(args.seed), time.perf_counter()
    faults, runs, kills = 0, 0, {"chosen": 0, "random": 0}
    with tempfile.TemporaryDirectory() as name:
        every_step = ("--checkpoint-minutes", "0")
        moments = count_moments(Path(name, "whole"), *every_step)
        expected = result(Path(name, "whole"))
        duration = time.perf_counter() - began
        print(f"an uninterrupted run: {moments} moments, {duration:.2f} s")
        # Half of the chosen moments are the first ones, when the run begins; the others are anywhere.
        chosen = itertools.chain(range(1, args.chosen // 2 + 1), iter(lambda: draw.randint(1, moments), None))
        for kind, goal in (("chosen", args.chosen), ("random", args.random)):
            while kills[kind] < goal:
                runs += 1
                folder = Path(name, str(runs))
                options = every_step if kind == "chosen" else ("--checkpoint-minutes", draw.choice(["0", "0.001", "5"]))
                codes = []
                for _ in range(min(1 + (draw.random() < 1 / 3), goal - kills[kind])):
                    if kind == "chosen":
                        codes.append(killed_at(folder, next(chosen), *options))
                    else:
                        codes.append(killed_after(folder, draw.uniform(duration / 4, duration), *options))
                kills[kind] += codes.count(-signal.SIGKILL)
                fault = fault_when_resumed(folder, expected, *options)
                if set(codes) - {0, -signal.SIGKILL}:
                    fault = f"exit codes {codes} instead of a kill; {fault}"
                faults += bool(fault)
                print(f"{kind} moments, exit codes {codes}: {fault or 'the same bits and history'}", flush=True)
    seconds = time.perf_counter() - began
    print(
        f"{kills['chosen']} kills at chosen moments, {kills['random']} at random ones: {faults} faults, {seconds:.0f} s"
    )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(child(int(sys.argv[2]), sys.argv[3:]) if sys.argv[1:2] == ["--child"] else main())
