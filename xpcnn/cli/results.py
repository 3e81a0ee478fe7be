"""Where the results of `xpcnn predict` go: lines for people, or a table in CSV."""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

from ..backend import HostArray
from ..data.errors import one_line
from ..data.formats.pictures import SUFFIXES
from ..training.files import replacing
from .options import check_writable, naming
from .pictures import Pictures

STDOUT = "-"

Write: TypeAlias = Callable[[Pictures, HostArray], None]  # given the probabilities `(N, classes)` of a batch


def check_csv(name: str) -> None:
    """Raise ValueError if `--csv NAME` cannot be written, or would replace a picture."""
    if name == STDOUT:
        return
    if name.lower().endswith(SUFFIXES):  # as in `--csv *.png`
        raise ValueError(f"--csv {name}: expected the name of a table, not of a picture")
    check_writable("--csv", name)


@contextmanager
def results(name: str | None, classes: Sequence[str]) -> Iterator[Write]:
    """Return a context manager whose value writes results as they come.

    Args:
        name: of a CSV file, which is complete after the block, and left as it was if the block fails; `"-"` for CSV on
            stdout; None for a line each on stdout.
        classes: the names of the classes.
    """
    if name is None:
        yield lambda batch, probabilities: _print(batch, probabilities, classes)
    elif name == STDOUT:
        yield _table(sys.stdout, classes)
    else:
        # realpath: what a link leads to is replaced, not the link.
        with naming(name), replacing(os.path.realpath(name)) as file:
            # surrogateescape: names of files that are not UTF-8 are written byte by byte as they are.
            text = io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="")
            yield _table(text, classes)
            text.flush()
            text.detach()


def _print(batch: Pictures, probabilities: HostArray, classes: Sequence[str]) -> None:
    for path, done, row in zip(batch.paths, batch.done, probabilities, strict=True):
        best = int(row.argmax())
        print(f"{one_line(path)}: {one_line(classes[best])} ({row[best]:.1%})  [{'; '.join(done)}]")


def _table(stream: Any, classes: Sequence[str]) -> Write:
    """Write the heading of a table as in RFC 4180, and return what writes its rows."""
    writer = csv.writer(stream)
    writer.writerow(["path", "class", "probability", *classes])

    def write(batch: Pictures, probabilities: HostArray) -> None:
        # As text, each number has as many digits as tell it from its neighbours in the network's data type.
        for path, best, row in zip(batch.paths, probabilities.argmax(1), probabilities.astype(str), strict=True):
            writer.writerow([path, classes[best], row[best], *row])

    return write
