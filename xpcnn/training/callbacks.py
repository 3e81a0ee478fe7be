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
from typing import Any, Literal, TextIO, TypeAlias

from .files import write_atomically
from .metrics import Metrics
from .streams import TolerantStream

Record: TypeAlias = dict[str, float]  # "epoch", "step", "train_loss", "train_accuracy", "learning_rate", "seconds", …
PARTS = ("train", "validation", "test")  # of the data, in whose names the keys of measurements begin


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

    From the second epoch on it shows the last epoch's validation figures as well, if there are any.

    Args:
        interval: seconds between updates of the loss, each of which waits for the device.
    """

    def __init__(self, interval: float = 0.5) -> None:
        from tqdm import tqdm

        self._tqdm = tqdm
        self._interval = interval
        self._bar: tqdm[None] | None = None
        self._validated: list[str] = []
        self._samples = 0
        self._looked = 0.0

    def on_epoch_start(self, epoch: int, epochs: int, batches: int | None) -> None:
        layout = "{desc} {percentage:3.0f}%|{bar:24}| {n}/{total} [{elapsed}<{remaining}{postfix}]"
        if batches is None:
            layout = "{desc} {n} [{elapsed}{postfix}]"
        stream = TolerantStream(sys.stderr)
        title = f"epoch {epoch}/{epochs}"
        self._bar = self._tqdm(total=batches, desc=title, bar_format=layout, leave=False, file=stream)
        self._samples, self._started = 0, time.perf_counter()

    def on_step(self, metrics: Metrics) -> None:
        if self._bar is None:
            return
        self._samples += metrics.sizes[-1]
        now = time.perf_counter()
        if now - self._looked >= self._interval:
            self._looked = now
            rate = self._samples / (now - self._started)
            measured = [_described(name, value) for name, value in metrics.averages().items()]
            self._bar.set_postfix_str(", ".join([*measured, *self._validated, f"{rate:,.0f} images/s"]))
        self._bar.update()

    def on_epoch_end(self, record: Record) -> None:
        self._validated = [_described(key, value) for key, value in record.items() if key.startswith("validation_")]
        self.on_stop()

    def on_stop(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class Table(Callback):
    """One line per epoch, under a heading, printed to stdout or another stream; dropped if it cannot be written.

    The columns are the metrics of the first record: of training, validation and test, as far as there are any.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._columns: list[tuple[str, str, str]] = []  # key, heading, format

    def on_epoch_end(self, record: Record) -> None:
        stream = TolerantStream(self._stream or sys.stdout)
        if not self._columns:
            measured = [key for part in PARTS for key in record if key.startswith(f"{part}_")]
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
    """Appends each epoch's record to `records` and to a JSON Lines file, which is replaced atomically."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.records: list[Record] = read_history(path) if self.path.exists() else []

    def on_epoch_end(self, record: Record) -> None:
        self.records.append(record)
        write_history(self.path, self.records)


OnSaveError: TypeAlias = Literal["stop", "continue"]


class Checkpointer(Callback):
    """Calls `save` at the start, every few minutes, after every epoch and on interruption.

    Pass it before the callbacks that print, so that every epoch that was printed is saved. `save` saves at once.

    Args:
        save: writes the checkpoint.
        minutes: between two checkpoints within an epoch; 0 for one after each step.
        on_error: what to do if `save` raises an OSError, such as for a full disk: `"stop"` raises it; `"continue"`
            prints a warning to stderr, continues training and tries again when the next checkpoint is due.

    Attributes:
        failure: the error of the last save; None if it succeeded.
    """

    def __init__(self, save: Callable[[], None], minutes: float = 5.0, on_error: OnSaveError = "stop") -> None:
        if not 0 <= minutes < float("inf"):
            raise ValueError(f"expected minutes between checkpoints of at least 0, got {minutes!r}")
        if on_error not in ("stop", "continue"):
            raise ValueError(f'expected on_error "stop" or "continue", got {on_error!r}')
        self._save_run, self._seconds, self._on_error = save, 60 * minutes, on_error
        self.failure: OSError | None = None
        self._saved_at: float | None = None  # the time of the last save, successful or not
        self._changed = True  # whether training has continued since

    def on_epoch_start(self, epoch: int, epochs: int, batches: int | None) -> None:
        if self._saved_at is None:
            self.save()

    def on_step(self, metrics: Metrics) -> None:
        self._changed = True
        if self._saved_at is None or time.monotonic() - self._saved_at >= self._seconds:
            self.save()

    def on_epoch_end(self, record: Record) -> None:
        self._changed = True
        self.save()

    def on_interrupt(self) -> None:
        if self._changed:
            self.save()

    def save(self) -> None:
        """Write a checkpoint, with errors treated as `on_error` says."""
        try:
            self._save_run()
            self.failure, self._changed = None, False
        except OSError as error:
            if self._on_error == "stop":
                raise
            self.failure = error
            print(f"xpcnn: warning: {error}; training continues", file=TolerantStream(sys.stderr), flush=True)
        finally:
            self._saved_at = time.monotonic()


def _described(metric: str, value: float) -> str:
    return f"{metric.replace('_', ' ')} {_number_format(metric).format(value)}"


def _number_format(metric: str) -> str:
    return "{:.2%}" if metric.endswith("accuracy") else "{:.4f}"


def write_history(path: str | os.PathLike[str], records: list[Record]) -> None:
    """Write records as a JSON Lines file, atomically.

    Raises:
        OSError: if it cannot be written; then the old content stays.
    """
    write_atomically(path, "".join(json.dumps(record) + "\n" for record in records).encode())


def read_history(path: str | os.PathLike[str]) -> list[Record]:
    """Return the records of a JSON Lines file that `write_history` wrote.

    Raises:
        ValueError: if a line is not a JSON object of numbers; the message names the file, the line and the key.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except ValueError as error:
        raise ValueError(f"{path}: not a text file ({error})") from error
    records: list[Record] = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            records.append(checked_record(json.loads(line)))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, line {number}: not a JSON record ({error})") from error
    return records


def checked_record(record: Any) -> Record:
    """Return a record that was read from a file, checked.

    Raises:
        ValueError: if it is not a dictionary of numbers with an epoch.
    """
    if not isinstance(record, dict) or "epoch" not in record:
        raise ValueError(f'expected a JSON object with "epoch", got {record!r:.40}')
    for key, value in record.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"expected {key} to be a number, got {value!r:.40}")
    return record
