"""Damaged files and odd command lines for as long as one likes: `python scripts/fuzz.py --minutes 8`.

Runs the targets of `tests/fuzz` (needs `python -m pip install ".[test]"`) with fresh seeds, and counts executions. What
is not an answer or a documented error of one line is a finding: its content is kept in a folder, and `--again FILE`
reads it once more. An execution that takes longer than 5 seconds or more than 2 GiB of memory is a finding, too.
libtiff writes lines of its own to stderr.

Result of 2026-11-21, two cores of an AMD EPYC (Zen 4), two processes for 22 minutes: 1,369,400 executions, no finding.
The runs before it (about half a million) found five causes, all mended: a step without a file's name in a trace, NaN in
a trace, an array of 71 axes in a checkpoint, and messages of several lines about a checkpoint and a trace.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from fuzz.commands import COMMAND_LINES, playground, run_command
from fuzz.structure import structures
from fuzz.targets import Target, targets
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

SLOW = 5.0  # seconds
MEMORY = 2 << 30  # bytes beyond what the process has at the start
TURN, DRAWN = 1000, 200  # executions of a target, by damage and by hypothesis, before the next one's turn
COMMANDS = "command lines"


class Findings:
    """Counts executions, and keeps what went wrong, each kind once."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.kinds = folder, set[str]()
        self.executions, self.refused = Counter[str](), Counter[str]()

    def run(self, name: str, read: Callable[[Any], str | None], content: Any) -> None:
        """Run one execution."""
        self.executions[name] += 1
        started = time.perf_counter()
        try:
            self.refused[name] += read(content) is not None
            if (took := time.perf_counter() - started) > SLOW:
                raise AssertionError(f"took {took:.1f} s")
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            kind = f"{name}: {type(error).__name__} at {Path(place.filename).name}:{place.lineno}: {error!s:.150}"
            same = f"{name} {type(error).__name__} {place.filename} {place.lineno}"
            if same not in self.kinds:
                self.kinds.add(same)
                path = self.folder / f"{len(self.kinds):03}"
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                path.write_bytes(json.dumps(name).encode() + b"\n" + data)
                print(f"\nFINDING {path}: {kind}", flush=True)


def drawn(strategy: st.SearchStrategy[Any], start: int, run: Callable[[Any], None]) -> None:
    """Run what hypothesis draws from a seed."""

    @seed(start)
    @settings(
        max_examples=DRAWN,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def execute(content: Any) -> None:
        run(content)

    execute()


def turns(readers: dict[str, Target], findings: Findings, first_seed: int) -> Iterator[None]:
    """Give every target its turns, for ever."""
    said = structures(readers)
    rng = random.Random(first_seed)
    while True:
        for name, target in readers.items():
            for _ in range(TURN):
                findings.run(name, target.run, target.damaged(rng))
            yield
        for name, strategy in said.items():
            drawn(
                strategy,
                rng.randrange(1 << 32),
                lambda content, name=name: findings.run(name, readers[name].run, content),
            )
            yield
        drawn(COMMAND_LINES, rng.randrange(1 << 32), lambda words: findings.run(COMMANDS, run_command, words))
        yield


def limit_memory() -> None:
    """Make what takes too much memory fail, where the system can."""
    try:
        import resource
    except ImportError:  # Windows
        return
    status = Path("/proc/self/statm")
    if status.exists():
        limit = int(status.read_text().split()[0]) * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _path(text: str) -> Path:
    return Path(text).resolve()  # the playground is another folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=None, help="of the first turn (the time)")
    parser.add_argument("--findings", type=_path, default="fuzz-findings", help="folder for what went wrong")
    parser.add_argument("--again", type=_path, help="one file of that folder")
    args = parser.parse_args()
    warnings.simplefilter("error")
    first_seed = time.time_ns() % (1 << 32) if args.seed is None else args.seed
    with tempfile.TemporaryDirectory(prefix="xpcnn-fuzz-") as folder, playground(Path(folder) / "here"):
        readers = {target.name: target for target in targets(Path(folder))}
        if args.again:
            name, content = args.again.read_bytes().split(b"\n", 1)
            print(
                run_command(json.loads(content))
                if json.loads(name) == COMMANDS
                else readers[json.loads(name)].run(content)
            )
            return
        args.findings.mkdir(exist_ok=True)
        limit_memory()
        findings = Findings(args.findings)
        end = time.monotonic() + 60 * args.minutes
        for _ in turns(readers, findings, first_seed):
            print(f"\r{findings.executions.total():,} executions, {len(findings.kinds)} findings", end="", flush=True)
            if time.monotonic() > end:
                break
    print(f"\nseed {first_seed}")
    for name, count in findings.executions.items():
        print(f"{name:30} {count:>10,} executions, {findings.refused[name]:>10,} refused")
    sys.exit(1 if findings.kinds else 0)


if __name__ == "__main__":
    main()
