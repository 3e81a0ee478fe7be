"""Callbacks: called at fixed points of a training run.

They receive plain values and keep no reference to a trainer, so a hand-written loop calls the same methods:

    for callback in callbacks:
        callback.on_epoch_end({"epoch": 1, "train_loss": 0.3})
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO, TypeAlias

from .metrics import Metrics

Record: TypeAlias = dict[str, float]  # "epoch", "step", "train_loss", "train_accuracy", "learning_rate", "seconds", …


class Callback:
    """Base class; its methods do nothing. A subclass overrides those it needs."""

    def on_epoch_start(self, epoch: int, epochs: int, batches: int | None) -> None:
        """Called before the first batch of an epoch; `epoch` counts from 1; `batches` is None if unknown."""

    def on_step(self, metrics: Metrics) -> None:
        """Called after each step with the epoch's metrics; reading their values waits for the device."""

    def on_epoch_end(self, record: Record) -> None:
        """Called after each epoch and its evaluation."""

    def on_interrupt(self) -> None:
        """Called when training was asked to stop early; the model is in the state after the last step."""

    def on_stop(self) -> None:
        """Called once when training ends, for whatever reason."""


class ProgressBar(Callback):
    """A bar on stderr while an epoch runs: loss, accuracy, images per second, time left.

    Args:
        interval: seconds between updates of the loss, each of which waits for the device.
    """

    def __init__(self, interval: float = 0.5) -> None:
        from tqdm import tqdm

        self._tqdm = tqdm
        self._interval = interval
        self._bar: tqdm[None] | None = None
        self._samples = 0
        self._looked = 0.0

    def on_epoch_start(self, epoch: int, epochs: int, batches: int | None) -> None:
        layout = "{desc} {percentage:3.0f}%|{bar:24}| {n}/{total} [{elapsed}<{remaining}{postfix}]"
        if batches is None:
            layout = "{desc} {n} [{elapsed}{postfix}]"
        self._bar = self._tqdm(total=batches, desc=f"epoch {epoch}/{epochs}", bar_format=layout, leave=False)
        self._samples, self._started = 0, time.perf_counter()

    def on_step(self, metrics: Metrics) -> None:
        if self._bar is None:
            return
        self._samples += metrics.sizes[-1]
        now = time.perf_counter()
        if now - self._looked >= self._interval:
            self._looked = now
            rate = self._samples / (now - self._started)
            values = [f"{name} {_number_format(name).format(value)}" for name, value in metrics.averages().items()]
            self._bar.set_postfix_str(", ".join([*values, f"{rate:,.0f} images/s"]))
        self._bar.update()

    def on_epoch_end(self, record: Record) -> None:
        self.on_stop()

    def on_stop(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class Table(Callback):
    """One line per epoch, under a heading, printed to stdout or another stream.

    The columns are the metrics of the first record, for training and test.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._columns: list[tuple[str, str, str]] = []  # key, heading, format

    def on_epoch_end(self, record: Record) -> None:
        stream = self._stream or sys.stdout
        if not self._columns:
            names = [key.removeprefix("train_") for key in record if key.startswith("train_")]
            measured = [f"{part}_{name}" for part in ("train", "test") for name in names]
            self._columns = [
                ("epoch", "epoch", "{:.0f}"),
                *((key, key.replace("_", " "), _number_format(key)) for key in measured),
                ("images_per_second", "images/s", "{:,.0f}"),
                ("seconds", "seconds", "{:.1f}"),
            ]
            print("  ".join(heading for _, heading, _ in self._columns), file=stream)
        cells = [
            (spec.format(record[key]) if key in record else "-").rjust(len(heading))
            for key, heading, spec in self._columns
        ]
        print("  ".join(cells), file=stream, flush=True)


class History(Callback):
    """Appends each epoch's record to a JSON Lines file, and keeps all of them in `records`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.records: list[Record] = read_history(path) if self.path.exists() else []

    def on_epoch_end(self, record: Record) -> None:
        self.records.append(record)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


class Checkpointer(Callback):
    """Calls `save` after every epoch and on interruption, but never after a loss that is not finite."""

    def __init__(self, save: Callable[[], None]) -> None:
        self._save = save

    def on_epoch_end(self, record: Record) -> None:
        self._save()

    def on_interrupt(self) -> None:
        self._save()


def _number_format(metric: str) -> str:
    return "{:.2%}" if metric.endswith("accuracy") else "{:.4f}"


def read_history(path: str | os.PathLike[str]) -> list[Record]:
    """Return the records of a JSON Lines file that `History` wrote.

    Raises:
        ValueError: if a line is not a JSON object.
    """
    records: list[Record] = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: not a JSON record ({error})") from error
        if not isinstance(record, dict):
            raise ValueError(f"{path}, line {number}: expected a JSON object, got {line[:40]!r}")
        records.append(record)
    return records
