"""Runs `xpcnn train` with several seeds, and keeps a line of JSON for each in `scripts/results/NAME.jsonl`.

    python scripts/recipe_results.py mnist-mini --data mnist-mini
    python scripts/recipe_results.py fashion-mnist --data fashion-mnist --seeds 0,1,2,3,4

All options but `--seeds` (0, 1 and 2) and `--results` are those of `xpcnn train`. A seed that is in the file already is
left out, so the runs may be spread out; a file with runs of another command is refused. A line has the commit, the
date, the hardware, the seed, the command, the test accuracy, the seconds of all training steps, those of the whole
command (which also evaluates after each epoch and draws the report), and the highest memory of the process in MiB. At
the end the mean of all seeds in the file is printed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmark_machine import peak_resident, processor

import xpcnn
from xpcnn.backend import CPU
from xpcnn.cli import main as run_command
from xpcnn.training import Checkpoint

HERE = Path(__file__).resolve()


def commit() -> str:
    """Return the commit of the code, with a plus sign if files were changed since; "unknown" outside a clone.

    The package may be installed elsewhere: there is a plus sign, too, if its files are not those of the clone.
    """
    try:
        options: dict[str, Any] = {"cwd": HERE.parent, "check": True, "capture_output": True, "text": True}
        changed = subprocess.run(["git", "status", "--porcelain", "-uno"], **options).stdout
        head = subprocess.run(["git", "rev-parse", "HEAD"], **options).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + "+" * bool(changed or _files(HERE.parents[1] / "xpcnn") != _files(Path(xpcnn.__file__).parent))


def _files(package: Path) -> dict[Path, bytes]:
    """Return each file of Python code by its path in the package."""
    return {path.relative_to(package): path.read_bytes() for path in package.rglob("*.py")}


def measured(seed: int, options: list[str]) -> dict[str, Any]:
    """Train with a seed in a process of its own, and return what was found.

    Raises:
        CalledProcessError: if it fails.
    """
    arguments = ["train", *options, "--seed", str(seed)]
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        code, start = commit(), time.perf_counter()
        command = [sys.executable, str(HERE), "--child", *arguments, "--output", str(run)]
        *_, peak = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
        seconds = time.perf_counter() - start
        info = Checkpoint.load(run / "checkpoint.safetensors").info
    return {
        "commit": code,
        "date": time.strftime("%Y-%m-%d"),
        "hardware": f"{processor()}, {CPU.threads} threads",
        "seed": seed,
        "command": " ".join(["xpcnn", "train", *options]),
        "accuracy": info["test"]["accuracy"],
        "training_seconds": round(sum(record["seconds"] for record in info["records"]), 1),
        "seconds": round(seconds, 1),
        "peak_mib": round(float(peak)),
        "config": info["config"],
    }


def run_seeds(file: Path, seeds: list[int], options: list[str]) -> list[dict[str, Any]]:
    """Add the seeds that a file lacks to it, and return all its lines.

    Raises:
        ValueError: if the file has runs of another command.
    """
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
    command = " ".join(["xpcnn", "train", *options])
    if other := next((line["command"] for line in lines if line["command"] != command), None):
        raise ValueError(f"{file} has runs of {other!r}, not of {command!r}")
    for seed in seeds:
        if any(line["seed"] == seed for line in lines):
            continue
        lines.append(measured(seed, options))
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as out:
            print(json.dumps(lines[-1]), file=out)
        print(described(lines[-1:]), flush=True)
    return lines


def described(lines: list[dict[str, Any]]) -> str:
    """Return the means of some lines, for reading."""
    means = [sum(line[key] for line in lines) / len(lines) for key in ("accuracy", "training_seconds", "seconds")]
    seeds, peak = ", ".join(str(line["seed"]) for line in lines), max(line["peak_mib"] for line in lines)
    return f"seed {seeds}: {means[0]:.2%}, {means[1]:.1f} s of training, {means[2]:.1f} s in all, {peak} MiB"


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        code = run_command(sys.argv[2:])
        print(peak_resident())
        raise SystemExit(code)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="of the file of results")
    parser.add_argument("--seeds", default="0,1,2", help="numbers joined by commas (0,1,2)")
    parser.add_argument("--results", type=Path, default=HERE.parent / "results", help="folder (scripts/results)")
    args, options = parser.parse_known_args()
    lines = run_seeds(args.results / f"{args.name}.jsonl", [int(seed) for seed in args.seeds.split(",")], options)
    print(f"{args.name}: {described(lines)}")


if __name__ == "__main__":
    main()
