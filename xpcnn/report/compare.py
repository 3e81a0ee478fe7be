"""Several training runs beside each other: a table, and a page with their curves."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..data.errors import one_line
from ..nn.summary import aligned
from ..training import Checkpoint, RunConfig, read_history
from ..training.callbacks import Record
from ..training.folder import CHECKPOINT, HISTORY
from ..training.run import read_config
from .charts import Curve
from .markup import Html, element, page, section, table
from .records import PARTS, curve, duration, measured_in, quantity_chart
from .run import short_names

_IN_THE_TABLE = {"model", "data", "epochs"}  # options that have columns of their own


@dataclass(frozen=True)
class FinishedRun:
    """What the files in a run's folder tell about it, without its data.

    Attributes:
        name: of the folder, as it was given.
        config: the configuration.
        records: of the complete epochs.
        parameters: the number of trained parameters; None if the checkpoint does not tell.
        test: loss and accuracy on the test images at the end, where the epochs are measured on others.
    """

    name: str
    config: RunConfig
    records: list[Record]
    parameters: int | None
    test: Mapping[str, Any]

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> FinishedRun:
        """Read a run's folder.

        Raises:
            ValueError: if it is not the folder of a run, or a file in it is damaged.
        """
        folder = Path(path)
        config = read_config(folder)
        history, file = folder / HISTORY, folder / CHECKPOINT
        records = read_history(history) if history.is_file() else []
        if not file.exists():  # killed before the first one
            return cls(str(path), config, records, None, {})
        checkpoint = Checkpoint.load(file)
        # The optimizer keeps arrays for parameters only, so its keys tell them from buffers such as running means.
        trained = {key.partition(".")[2] for key in checkpoint.optimizer} & checkpoint.model.keys()
        parameters = sum(checkpoint.model[name].size for name in trained) or None
        test = checkpoint.info.get("test")
        return cls(str(path), config, records, parameters, test if isinstance(test, dict) else {})

    @property
    def part(self) -> str:
        """The part of the data on which the epochs are measured: `"validation"` or `"test"`; "" before the first."""
        parts, _ = measured_in(self.records)
        return next((part for part in ("validation", "test") if part in parts), "")

    def cells(self) -> list[str]:
        """Return the row of the run under `HEAD`."""
        done, epochs = len(self.records), self.config.epochs
        accuracies = curve(self.records, f"{self.part}_accuracy")
        losses = curve(self.records, f"{self.part}_loss")
        best = max(accuracies, key=lambda point: point[1], default=None)
        seconds = sum(record.get("seconds", 0.0) for record in self.records)
        images = sum(record.get("seconds", 0.0) * record.get("images_per_second", 0.0) for record in self.records)
        test = self.test.get("accuracy") if self.part == "validation" else None
        return [
            self.name,
            *short_names(self.config),
            f"{done}" if done == epochs else f"{done} of {epochs}",
            self.part or "-",
            f"{accuracies[-1][1]:.2%}" if accuracies else "-",
            f"{best[1]:.2%} ({best[0]:.0f})" if best else "-",
            f"{losses[-1][1]:.4f}" if losses else "-",
            f"{test:.2%}" if isinstance(test, float) else "-",
            f"{self.parameters:,}" if self.parameters else "-",
            duration(seconds) if seconds else "-",
            f"{images / seconds:,.0f}" if seconds else "-",
        ]


HEAD = ["run", "model", "data", "epochs", "measured on", "accuracy", "best (epoch)", "loss", "test at end"]
HEAD += ["parameters", "time", "images/s"]
_TEXT_COLUMNS = 5


def comparison_rows(runs: Iterable[FinishedRun]) -> list[list[str]]:
    """Return the table of runs, the headings first; a column that is empty in all of them is left out."""
    rows = [HEAD, *([one_line(cell) for cell in run.cells()] for run in runs)]
    kept = [i for i in range(len(HEAD)) if i < _TEXT_COLUMNS or any(row[i] != "-" for row in rows[1:])]
    return [[row[i] for i in kept] for row in rows]


def option_rows(runs: Sequence[FinishedRun]) -> list[list[str]]:
    """Return the table of the options that are not the same in all runs, the headings first; empty if all are."""
    options = [asdict(run.config) for run in runs]
    names = [
        name for name in options[0] if name not in _IN_THE_TABLE and any(o[name] != options[0][name] for o in options)
    ]
    rows = [
        [one_line(text) for text in (run.name, *("-" if o[name] is None else str(o[name]) for name in names))]
        for run, o in zip(runs, options, strict=True)
    ]
    return [["run", *names], *rows] if names else []


def comparison_text(runs: Sequence[FinishedRun]) -> str:
    """Return the tables as text."""
    lines = aligned(comparison_rows(runs), left=_TEXT_COLUMNS)
    if options := option_rows(runs):
        lines += ["", "options that differ:", *aligned(options, left=len(options[0]))]
    return "\n".join(lines)


def comparison_report(runs: Sequence[FinishedRun]) -> str:
    """Return a page with the tables and the curves of all runs, as HTML in one file."""
    head, *rows = comparison_rows(runs)
    parts = [
        table("Runs", head, rows, left=_TEXT_COLUMNS),
        section("Curves", element("div", *_charts(runs), class_="columns")),
    ]
    if options := option_rows(runs):
        parts.append(
            section("Options that differ", table("Options that differ", options[0], options[1:], left=len(options[0])))
        )
    return page(f"{len(runs)} training run{'' if len(runs) == 1 else 's'}", *parts)


def _charts(runs: Sequence[FinishedRun]) -> Iterator[Html]:
    parts, quantities = measured_in(record for run in runs for record in run.records)
    for part in reversed(parts):  # test or validation first
        for quantity in quantities:
            curves = [Curve(run.name, curve(run.records, f"{part}_{quantity}"), i) for i, run in enumerate(runs)]
            yield quantity_chart(f"{PARTS[part]} {quantity}", quantity, curves)
