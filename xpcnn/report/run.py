"""The page about a training run."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from ..backend import HostArray
from ..data import Dataset
from ..nn import Module
from ..parity.record import versions
from ..training import Run, TrainingConfig
from ..training.callbacks import Record
from .classes import Predictions, class_sections
from .markup import Html, element, facts, joined, page, section, write_page
from .network import network_sections
from .records import duration, training_section

REPORT = "report.html"

_AT_ONCE = 8192  # images whose probabilities are in memory at the same time


def run_report(
    title: str,
    records: Sequence[Record],
    *,
    test: Dataset | None = None,
    probabilities: HostArray | Predictions | None = None,
    model: Module | None = None,
    in_shape: Sequence[int] | None = None,
    config: Mapping[str, object] | None = None,
    best: int | None = None,
) -> str:
    """Return a page about a training run, as HTML in one file. What is not given is left out.

    Args:
        title: the page's.
        records: of the epochs, as `Trainer.fit` returns them.
        test: the test images, for the confusion table and the mistakes.
        probabilities: of each class for each of the test images, `(N, classes)`, as `predict` returns them; or
            `Predictions`, which take less memory.
        model: the trained network, for its layers and filters.
        in_shape: of one image, `(C, H, W)`; None for that of the test images.
        config: names and values, such as `dataclasses.asdict(run.config)`.
        best: the epoch with the lowest loss on validation images, if the network has its weights.

    Raises:
        ValueError: if there are not as many probabilities as test images and classes.
    """
    found = None
    if test is not None and probabilities is not None and len(test):
        found = probabilities if isinstance(probabilities, Predictions) else _checked(probabilities, test)
    if in_shape is None and test is not None:
        in_shape = test.images.shape[1:]
    parts = [_result(records, test, found, model, best), *training_section(records)]
    if test is not None and found is not None:
        parts += class_sections(test, found)
    if model is not None:
        parts += network_sections(model, in_shape)
    settings = [section("Configuration", facts(config.items()))] if config else []
    settings.append(section("Where it ran", facts(_environment(records, model))))
    return page(title, *parts, element("div", *settings, class_="columns"))


def write_run_report(run: Run) -> Path:
    """Write `report.html` into the folder of a run, whose network classifies all test images once for it.

    Returns:
        the path of the file.

    Raises:
        OSError: if it cannot be written.
    """
    test = run.test.dataset
    parts = []
    for first in range(0, len(test), _AT_ONCE):
        some = test.subset(slice(first, first + _AT_ONCE))
        parts.append(Predictions.of(run.trainer.predict(some.images), some.labels))
    text = run_report(
        " on ".join(short_names(run.config)),
        run.records,
        test=test,
        probabilities=Predictions.joined(parts),
        model=run.trainer.model,
        config=asdict(run.config),
        best=int(run.tested["epoch"]) if run.validation is not None and run.tested is not None else None,
    )
    path = run.path / REPORT
    write_page(path, text)
    return path


def short_names(config: TrainingConfig) -> tuple[str, str]:
    """Return the names of the network and of the data, without the folders of those that are files."""
    return config.model.rpartition(":")[2], Path(config.data).name


def _checked(probabilities: HostArray, test: Dataset) -> Predictions:
    expected = len(test), len(test.classes)
    if probabilities.shape != expected:
        raise ValueError(f"expected probabilities (images, classes) = {expected}, got {probabilities.shape}")
    return Predictions.of(probabilities, test.labels)


def _result(
    records: Sequence[Record], test: Dataset | None, found: Predictions | None, model: Module | None, best: int | None
) -> Html:
    lines = []
    if test is not None and found is not None:
        accuracy = (found.predicted == test.labels).mean()
        lines.append(element("p", f"{accuracy:.2%}", class_="big"))
        lines.append(element("p", f"of {len(test):,} test images classified correctly, cross-entropy {found.loss:.4f}"))
    words = []
    if records:
        epochs = int(records[-1]["epoch"])
        words.append(f"{epochs:,} epoch{'' if epochs == 1 else 's'}")
        if best is not None:
            words.append(f"weights of epoch {best:,}, the best on the validation images")
        words.append(f"{duration(sum(record.get('seconds', 0.0) for record in records))} of training")
    if model is not None:
        words.append(f"{model.count_parameters():,} parameters")
    lines.append(element("p", " · ".join(words), class_="soft"))
    return joined(lines)


def _environment(records: Sequence[Record], model: Module | None) -> Iterable[tuple[str, object]]:
    if model is not None:
        yield "device", f"{model.device.name} ({model.device.description})"
    if any("seconds" in record for record in records):
        yield "time of training", duration(sum(record.get("seconds", 0.0) for record in records))
    if records and "images_per_second" in records[-1]:
        yield "speed", f"{records[-1]['images_per_second']:,.0f} images/s in the last epoch"
    yield from versions().items()
    yield "report written", time.strftime("%Y-%m-%d %H:%M")
