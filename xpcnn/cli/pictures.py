"""The pictures that a command line names: found in folders, and read in batches."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from ..backend import HostArray
from ..data import DataSpec
from ..data.errors import DataError
from ..data.formats.images import read_image
from ..data.formats.pictures import SUFFIXES

_BATCH = 64  # pictures read before they are classified
_NAMED = 5  # bad files in a message


def find_pictures(paths: Iterable[str]) -> Iterator[str]:
    """Yield each path that is a file; of a folder, the pictures in it and its subfolders, sorted, without hidden ones.

    A path at which there is nothing is yielded too: reading it says so.

    Raises:
        DataError: if a folder has no pictures, or cannot be read.
    """
    for path in paths:
        if not os.path.isdir(path):  # noqa: PTH112  (False for a name with a null character, where Path raises)
            yield path
            continue
        pictures = _pictures_below(path, set())
        first = next(pictures, None)
        if first is None:
            raise DataError(f"{path}: no pictures ({', '.join(SUFFIXES)})")
        yield first
        yield from pictures


def _pictures_below(folder: str, seen: set[tuple[int, int]]) -> Iterator[str]:
    """Yield the paths of the pictures below a folder.

    Args:
        folder: the folder.
        seen: folders that were read, and are not read again: links may lead round in a circle.
    """
    try:
        status = os.stat(folder)  # noqa: PTH116
        if (place := (status.st_dev, status.st_ino)) in seen:
            return
        seen.add(place)
        with os.scandir(folder) as entries:
            found = sorted((entry for entry in entries if entry.name[0] != "."), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror})") from error
    for entry in found:
        if entry.is_dir():
            yield from _pictures_below(entry.path, seen)
        elif entry.name.lower().endswith(SUFFIXES):
            yield entry.path


@dataclass
class Batch:
    """Pictures that were read together.

    Attributes:
        paths: of those that could be read.
        images: `(N, C, H, W)` uint8.
        done: how each was converted, in words.
        faults: what is wrong with the others, a line each.
    """

    paths: list[str]
    images: HostArray
    done: list[list[str]]
    faults: list[str]

    def __len__(self) -> int:
        return len(self.paths) + len(self.faults)


def read_pictures(paths: Iterable[str], spec: DataSpec) -> Iterator[Batch]:
    """Yield pictures in the shape that a network takes, in batches.

    Raises:
        ImportError: if Pillow is not installed.
    """
    rest = iter(paths)
    while some := [*islice(rest, _BATCH)]:
        batch = Batch([], np.empty((len(some), *spec.shape), np.uint8), [], [])
        with _quiet_libraries():
            for path in some:
                try:
                    batch.images[len(batch.paths)], done = read_image(path, spec.shape, drawing=spec.drawing)
                except DataError as error:
                    batch.faults.append(str(error))
                else:
                    batch.paths.append(path)
                    batch.done.append(done)
        batch.images = batch.images[: len(batch.paths)]
        yield batch


@dataclass
class BadFiles:
    """How many files cannot be read, and what is wrong with the first of them."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, faults: Sequence[str]) -> None:
        """Add more files."""
        self.count += len(faults)
        self.first += faults[: _NAMED - len(self.first)]

    def text(self, total: int, then: str) -> str:
        """Return a line on them.

        Args:
            total: how many files there are in all.
            then: what happens to the bad ones.
        """
        more = f"; and {self.count - _NAMED:,} more" if self.count > _NAMED else ""
        return f"{self.count:,} of {total:,} files cannot be read{then}: {'; '.join(self.first)}{more}"


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Drop what compiled libraries write to stderr by themselves, as libtiff does for each fault of a file."""
    with Path(os.devnull).open("wb") as nowhere:
        try:
            stderr = os.dup(2)
        except OSError:  # closed by the user
            yield
            return
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
