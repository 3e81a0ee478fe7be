"""Decoding all pictures of a folder into its cache."""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Generator
from contextlib import closing
from itertools import chain
from pathlib import Path

import numpy as np

from ...backend import CPU
from ...extras import needed_for
from ..errors import DataError
from ..formats.pictures import read_picture
from .cache import Cache, CachePlace, Decoded
from .decode import USUAL, Plan
from .listing import Picture
from .workers import decode_all

_LOOKED_AT = 32  # pictures from which the plan follows, as long as no other contradicts it
_BATCH, _BATCH_BYTES = 64, 4 << 20  # pictures that are decoded together, and bytes of them
_WORTHWHILE = 0.5  # seconds of work that a process is started for, which takes 0.2


def build_cache(
    root: Path, files: list[Picture], place: CachePlace, plan: Plan | None, size: int | None, progress: bool
) -> Cache:
    """Decode a folder's pictures, write them to its cache and open it.

    Images of files that are in an older cache, and have not changed since, are taken from there.

    Args:
        root: the folder.
        files: its pictures.
        place: of the cache.
        plan: how to decode them; if None, that follows from the pictures.
        size: pixels of a side, or None; see `Plan.of_first`.
        progress: show a progress bar on stderr.

    Raises:
        DataError: if the cache cannot be written.
        ImportError: if Pillow is not installed.
    """
    with needed_for("reading pictures"):
        import PIL.Image  # noqa: F401

    older = place.older()
    if older is not None and plan is None:
        kept = {file.path for file in {*files} & {*older.files}}
        if not kept.issuperset(older.plan.because):
            older = None  # the pictures from which its shape follows have changed
    rows = {} if older is None else older.rows()
    first, seconds = _look(root, [file for file in files if file not in rows], size)
    plan = plan or (first if older is None else older.plan)
    while True:
        if older is not None and older.plan.shape != plan.shape:
            older = None
        try:
            place.write(plan, _decoded(root, files, plan, older, seconds, progress))
        except _MisfitError as misfit:
            picture, _ = read_picture(root / misfit.path, 3)
            plan = plan.widened(picture, misfit.path)
        else:
            break
    cache = place.open()
    if cache is None:
        raise DataError(f"{place.path}: another process has changed or removed it; please try again")
    return cache


def batch_length(plan: Plan) -> int:
    """Return how many pictures to decode together."""
    return max(1, min(_BATCH, _BATCH_BYTES // math.prod(plan.shape)))


def processes_for(seconds: float) -> int:
    """Return how many processes to decode in, for so much work on one core."""
    if getattr(sys, "frozen", False):  # in a program that brings Python with it, `sys.executable` is that program
        return 1
    return min(CPU.threads, int(seconds / _WORTHWHILE))


class _MisfitError(Exception):
    """A picture does not meet the conditions of the plan."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path


def _look(root: Path, files: list[Picture], size: int | None) -> tuple[Plan, float]:
    """Return the plan that follows from some of the pictures, and the seconds that reading one takes."""
    plan: Plan | None = None
    times: list[float] = []
    some = files[:: max(1, len(files) // _LOOKED_AT)]
    for file in chain(some, files):
        if len(times) >= len(some) and plan is not None:
            break
        started = time.perf_counter()
        try:
            picture, _ = read_picture(root / file.path, 3)
        except DataError:
            continue
        plan = Plan.of_first(picture, file.path, size) if plan is None else plan.widened(picture, file.path)
        times.append(time.perf_counter() - started)
    side = size or USUAL
    return plan or Plan((1, side, side), if_grey=True), statistics.median(times or [0.0])


def _decoded(
    root: Path, files: list[Picture], plan: Plan, older: Cache | None, seconds: float, progress: bool
) -> Generator[Decoded, None, None]:
    """Yield the pixels and faults of all pictures, in order.

    Args:
        root, files, plan, progress: see `build_cache`.
        older: the cache that has images for some of the files; None if there is none.
        seconds: how long reading a picture takes.

    Raises:
        _MisfitError: if a picture does not meet the conditions of the plan.
    """
    from tqdm import tqdm

    rows = {} if older is None else older.rows()
    length = batch_length(plan)
    batches = [files[first : first + length] for first in range(0, len(files), length)]
    new = [[file for file in batch if file not in rows] for batch in batches]
    paths = [[f"{root}/{file.path}" for file in batch] for batch in new]
    processes = processes_for(seconds * sum(map(len, paths)))
    bar = tqdm(total=len(files), desc=root.resolve().name, unit=" pictures", disable=not progress)
    with bar, closing(decode_all(paths, plan, processes)) as results:  # closing ends the processes
        for batch, decoding, decoded in zip(batches, new, results, strict=True):
            if decoded.misfit is not None:
                raise _MisfitError(decoding[decoded.misfit].path)
            faults = {decoding[i].path: text for i, text in decoded.faults.items()}
            pixels = decoded.pixels
            if older is not None and len(decoding) < len(batch):
                good = [file for file in batch if file.path not in faults]
                decoded_rows = iter(pixels)
                pixels = np.stack([older.images[rows[file]] if file in rows else next(decoded_rows) for file in good])
            yield pixels, faults
            bar.update(len(batch))
