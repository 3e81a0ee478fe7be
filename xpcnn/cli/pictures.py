"""The pictures that a command line names: found in folders, and read in batches."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ..backend import HostArray
from ..data import DataSpec
from ..data.errors import NAMED, DataError, bad_files, one_line
from ..data.formats.pictures import SUFFIXES
from ..data.image_folder.build import batch_length, processes_for
from ..data.image_folder.decode import Plan, decode
from ..data.image_folder.listing import pictures_below
from ..data.image_folder.workers import decode_all

_LOOKED_AT = 16  # pictures that are timed


def find_pictures(paths: Iterable[str]) -> list[str]:
    """Return each path that is a file; of a folder, the pictures in it and its subfolders, sorted, without hidden ones.

    A path at which there is nothing is among them: reading it says so.

    Raises:
        DataError: if a folder has no pictures, or cannot be read.
    """
    found = []
    for path in paths:
        pictures = [path]
        if os.path.isdir(path):  # noqa: PTH112  (False for a name with a null character, where Path raises)
            pictures = [entry.path for entry in pictures_below(path)]
        if not pictures:
            raise DataError(f"{path}: no pictures ({', '.join(SUFFIXES)})")
        found += pictures
    return found


@dataclass
class Pictures:
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


def read_pictures(paths: Sequence[str], spec: DataSpec) -> Generator[Pictures, None, None]:
    """Yield pictures in the shape that a network takes, in batches.

    If there are many, processes on all cores decode the next ones while the network computes.

    Raises:
        ImportError: if Pillow is not installed.
    """
    plan = Plan(spec.shape, spec.drawing)
    length = batch_length(plan)
    batches = [paths[first : first + length] for first in range(0, len(paths), length)]
    with closing(decode_all(batches, plan, _processes(paths, length, plan))) as results:
        for batch in batches:
            with _quiet_libraries():
                decoded = next(results)
            faults = [f"{one_line(batch[i])}: {text}" for i, text in decoded.faults.items()]
            good = [path for i, path in enumerate(batch) if i not in decoded.faults]
            yield Pictures(good, decoded.pixels, decoded.done, faults)


def _processes(paths: Sequence[str], length: int, plan: Plan) -> int:
    """Return how many processes to read pictures in, by the time that a few take; 1 if all are one batch."""
    if len(paths) <= length:
        return 1
    some = paths[:: len(paths) // _LOOKED_AT + 1]
    started = time.perf_counter()
    with _quiet_libraries():
        decode(some, plan)
    return processes_for((time.perf_counter() - started) / len(some) * len(paths))


@dataclass
class BadFiles:
    """How many files cannot be read, and what is wrong with the first of them."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, faults: Sequence[str]) -> None:
        """Add more files."""
        self.count += len(faults)
        self.first += faults[: NAMED - len(self.first)]

    def text(self, total: int, then: str) -> str:
        """Return a line on them.

        Args:
            total: how many files there are in all.
            then: what happens to the bad ones.
        """
        return bad_files(self.first, self.count, total, then)


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
