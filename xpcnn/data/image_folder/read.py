"""Reading a folder of pictures: from its cache, or by decoding all of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, bad_files, one_line
from ..folder import data_folder
from .build import build_cache
from .cache import Cache, CachePlace
from .decode import Plan
from .listing import list_folder


class FolderImages(NamedTuple):
    """A part of a folder: the images `(N, C, H, W)`, mapped into memory, and the class of each by name, `(N,)`."""

    images: NDArray[np.uint8]
    labels: NDArray[np.str_]


def read_folder(
    path: str | os.PathLike[str],
    *,
    size: int | None = None,
    test_share: float = 0.2,
    shape: tuple[int, int, int] | None = None,
    classes: Sequence[str] | None = None,
    drawing: bool = False,
    skip_bad: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> tuple[str, tuple[str, ...], FolderImages, FolderImages]:
    """Read a folder of pictures; see `Dataset.from_folder`.

    Args:
        path, size, test_share, skip_bad, cache_dir, progress: see there.
        shape: `(C, H, W)` of the images; if None, it follows from `size` and the pictures.
        classes: the names that classes may have; if None, they are those of the training part.
        drawing: see `read_image`.

    Returns:
        The folder's name, the classes, the training part and the test part.
    """
    if size is not None and size < 1:
        raise ValueError(f"expected a size of 1 pixel or more, got {size}")
    if not 0 < test_share < 1:
        raise ValueError(f"expected a test_share between 0 and 1, got {test_share!r}")
    root = Path(path)
    listing = list_folder(root, test_share, classes)
    files = [file for part in listing.parts.values() for those in part.values() for file in those]
    if shape is not None:
        request = "x".join(map(str, shape)) + "-drawing" * drawing
    else:
        request = "own" if size is None else str(size)
    place = CachePlace(root, files, request, data_folder(cache_dir) / "folders")
    plan = None if shape is None else Plan(shape, drawing)
    cache = place.open() or build_cache(root, files, place, plan, size, progress)
    if cache.faults:
        _tell(root, cache, skip_bad)
    parts, first = [], 0
    for part_name, part in listing.parts.items():
        counts = [sum(file.path not in cache.faults for file in those) for those in part.values()]
        for (name, those), count in zip(part.items(), counts, strict=True):
            if those and not count:
                raise DataError(f"{root}: no {part_name} picture of {name} can be read; remove its bad files")
        labels = np.repeat(np.array([*part], dtype=str), counts)
        parts.append(FolderImages(cache.images[first : first + len(labels)], labels))
        first += len(labels)
    return Path(os.path.realpath(root)).name or "folder", listing.classes, parts[0], parts[1]


def _tell(root: Path, cache: Cache, skip_bad: bool) -> None:
    """Print how many files are left out, or raise an error that names them."""
    bad = [f"{root / path}: {text}" for path, text in cache.faults.items()]
    if skip_bad:
        count = f"{len(bad):,} of {len(cache.files):,} files"
        print(f"xpcnn: warning: {one_line(root)}: {count} cannot be read and are left out", file=sys.stderr)
        return
    then = "; skip_bad (--skip-bad) leaves them out"
    raise DataError(f"{root}: {bad_files(bad, len(bad), len(cache.files), then)}")
