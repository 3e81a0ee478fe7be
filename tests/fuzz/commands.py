"""Command lines of any kind: each ends with a documented exit code and at most one line about an error."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from hypothesis import strategies as st

from xpcnn.backend import CPU
from xpcnn.cli import main
from xpcnn.data import Dataset, load_dataset

_NUMBERS = ["0", "1", "2", "-1", "3.5", "1e400", "nan", "inf", "1e-3", "9" * 400, "", "x", "٣", "0x10", "--", " 1"]
_NAMES = [
    "",
    "x",
    "lenet5",
    "fast",
    "none",
    "numpy_cnn",
    "mnist-mini",
    "sgd",
    "adamw",
    "float64",
    "cpu",
    "cuda:99",
    "cpu,cpu",
    "é\n\x1b[2J",
]
_PATHS = [
    "",
    "new",
    "new/deep",
    "file",
    "file/x",
    ".",
    "~nosuchuser/x",
    "a\nb\x1b[31m\udcff",
    "n" * 300,
    "fifo",
    "x.png",
    "-",
]

_NUMERIC = [
    "--ema",
    "--label-smoothing",
    "--epochs",
    "--batch-size",
    "--size",
    "--lr",
    "--weight-decay",
    "--seed",
    "--steps",
    "--limit",
    "--views",
]
_NAMED = ["--recipe", "--model", "--data", "--optimizer", "--device", "--devices", "--dtype", "--precision"]
_FILES = ["--output", "--resume", "--data-dir", "--data", "--picture", "--csv", "--report"]
_PROCESSES = ["", "0", "1", "1,1", "1,x", "-1", "٣", "1e3", "9" * 400]  # 2 would start processes outside the playground
_FLAGS = [
    "--local-batch-norm",
    "--skip-bad",
    "--class-weights",
    "--progress",
    "--json",
    "--help",
    "--version",
    "--unknown",
]
_COMMANDS = [["train"], ["evaluate"], ["predict"], ["devices"], ["parity", "record"], ["parity", "check"]]
_COMMANDS += [["parity", "run"], ["parity"], ["compare"], [], ["unknown"]]


def _option(names: list[str], values: list[str]) -> st.SearchStrategy[list[str]]:
    pairs = st.tuples(st.sampled_from(names), st.sampled_from(values))
    return st.one_of(pairs.map(list), pairs.map(lambda pair: ["=".join(pair)]))


COMMAND_LINES = st.tuples(
    st.sampled_from(_COMMANDS),
    st.lists(st.sampled_from(_PATHS).map(lambda path: [path]), max_size=2),
    st.lists(
        st.one_of(
            _option(_NUMERIC, _NUMBERS),
            _option(_NAMED, _NAMES),
            _option(_FILES, _PATHS),
            _option(["--processes"], _PROCESSES),
            st.sampled_from(_FLAGS).map(lambda flag: [flag]),
        ),
        max_size=5,
    ),
).map(lambda parts: [*parts[0], *(word for words in (*parts[1], *parts[2]) for word in words)])


@contextlib.contextmanager
def playground(folder: Path) -> Iterator[None]:
    """Let command lines work in a folder, on a few images, so that training takes a blink."""
    whole = {split: load_dataset("mnist-mini", split) for split in ("train", "test")}

    def few(name: str, split: str = "train", data_dir: str | None = None) -> Dataset:
        return (
            load_dataset(name, split, data_dir, download=False)
            if name != "mnist-mini"
            else whole[split].subset(slice(8))
        )

    folder.mkdir()
    (folder / "file").write_bytes(b"text")
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "fifo")
    with mock.patch("xpcnn.data.sources.load_dataset", few), contextlib.chdir(folder):
        yield


def run_command(arguments: list[str]) -> str | None:
    """Run a command line in the playground.

    Returns:
        What it said on stderr; None if its exit code is 0.

    Raises:
        AssertionError: if its exit code is not a documented one, or it said more than one line. Errors pass through.
    """
    threads = CPU.threads
    output, errors = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            code = main(arguments)
    except SystemExit as stop:  # from argparse
        code = stop.code if isinstance(stop.code, int) else 2
    finally:
        CPU.threads = threads
    said = errors.getvalue()
    assert code in (0, 1, 2), f"exit code {code}: {said}"
    if code == 0:
        return None
    faults = [line for line in said.splitlines() if line.startswith("xpcnn") and "error: " in line]
    differ = code == 1 and not faults  # what differs is in the report
    assert differ or len(faults) == 1, f"exit code {code}: {said!r}"
    assert "\x1b" not in said
    assert "Traceback" not in said
    return said
