"""Which pictures a folder has, of which classes, and in which part each is."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..errors import DataError
from ..formats.pictures import SUFFIXES

_TEST = ("test", "val")  # names of the folder with the test part; the first that exists is taken


class Picture(NamedTuple):
    """A file, and by what a change of it is noticed.

    Attributes:
        path: from the data set's folder, with `/` on every system.
        size: in bytes; -1 if the file cannot be asked, as a broken link.
        time: of its last change, in nanoseconds.
    """

    path: str
    size: int
    time: int


@dataclass(frozen=True)
class Listing:
    """The pictures of a folder.

    Attributes:
        classes: the names of the classes, sorted.
        parts: by `"train"` and `"test"`, the pictures of each class, sorted by path.
    """

    classes: tuple[str, ...]
    parts: dict[str, dict[str, list[Picture]]]


def list_folder(root: Path, test_share: float, classes: Sequence[str] | None = None) -> Listing:
    """Return the pictures of a folder; see `Dataset.from_folder` for what it has to look like.

    Args:
        root: the folder.
        test_share: which part of a folder without `train` and `test` is for testing, from 0 to 1.
        classes: those of another data set: no others may be there, and not all of them have to be.

    Raises:
        DataError: if there are other classes, fewer than two, or too few pictures of one.
    """
    names = _folders(root)
    test = next((name for name in _TEST if name in names), None)
    if "train" in names and test is not None:
        folders = {"train": root / "train", "test": root / test}
        found = {part: _pictures_by_class(folder, root) for part, folder in folders.items()}
        known = classes or _classes(folders["train"], found["train"])
        for part, folder in folders.items():
            _refuse_unknown(folder, found[part], known)
            if not any(found[part].values()):
                raise DataError(f"{folder}: no pictures; expected {_layout()}")
    else:
        pictures = _pictures_by_class(root, root)
        known = classes or _classes(root, pictures)
        _refuse_unknown(root, pictures, known)
        if not any(pictures.values()):
            raise DataError(f"{root}: no pictures; expected {_layout()}")
        found = {"train": {}, "test": {}}
        for name, those in pictures.items():
            if len(those) == 1:
                raise DataError(f"{root / name}: one picture, expected two or more, for training and for testing")
            found["train"][name], found["test"][name] = _split(those, test_share)
    return Listing(tuple(known), found)


def _classes(folder: Path, pictures: dict[str, list[Picture]]) -> tuple[str, ...]:
    """Return the names of the classes of a training part."""
    if len(pictures) < 2:
        beside = f"; train needs {' or '.join(_TEST)} beside it" if "train" in pictures else ""
        names = ", ".join(pictures) or "none"
        raise DataError(f"{folder}: expected a subfolder for each of two or more classes, got {names}{beside}")
    if empty := [name for name, those in pictures.items() if not those]:
        raise DataError(f"{folder}: no pictures of {', '.join(empty[:5])} ({', '.join(SUFFIXES)})")
    return tuple(pictures)


def _refuse_unknown(folder: Path, pictures: dict[str, list[Picture]], known: Sequence[str]) -> None:
    if unknown := sorted({*pictures} - {*known}):
        names = ", ".join(known[:8]) + (", …" if len(known) > 8 else "")
        raise DataError(f"{folder}: {', '.join(unknown[:5])} is none of the classes {names}")


def _layout() -> str:
    return f"a subfolder for each class, with pictures ({', '.join(SUFFIXES)})"


def _split(pictures: list[Picture], test_share: float) -> tuple[list[Picture], list[Picture]]:
    """Return the training and the test pictures of a class.

    A hash of its path decides for each picture alone, so more pictures change nothing for those that are there. Only
    where a part would be empty is the picture moved there that is nearest to the border.
    """
    ranks = [_rank(picture.path) for picture in pictures]
    ordered = sorted(ranks)
    border = min(max(test_share, ordered[0]), ordered[-2])
    parts: tuple[list[Picture], list[Picture]] = ([], [])
    for rank, picture in zip(ranks, pictures, strict=True):
        parts[rank <= border].append(picture)
    return parts


def _rank(path: str) -> float:
    """Return a number from 0 to 1 that follows from a path."""
    digest = hashlib.sha256(path.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _folders(folder: Path) -> dict[str, str]:
    """Return the paths of the subfolders by name, sorted; hidden ones are left out."""
    return {entry.name: entry.path for entry in _scan(folder) if _is_folder(entry)}


def _pictures_by_class(folder: Path, root: Path) -> dict[str, list[Picture]]:
    start = "" if folder == root else f"{folder.name}/"
    return {name: [*_pictures(path, f"{start}{name}/")] for name, path in _folders(folder).items()}


def _pictures(folder: str, path: str) -> Iterator[Picture]:
    """Yield the pictures below a folder, sorted by path.

    Args:
        folder: the folder.
        path: its path from the data set's folder, with a `/` at the end.
    """
    for entry in pictures_below(folder):
        inside = entry.path[len(folder) + 1 :].replace(os.sep, "/")
        try:
            status = entry.stat()
            yield Picture(path + inside, status.st_size, status.st_mtime_ns)
        except OSError:  # a link that leads nowhere: reading it says so
            yield Picture(path + inside, -1, -1)


def pictures_below(folder: str) -> Iterator[os.DirEntry[str]]:
    """Yield the files in a folder and its subfolders that are pictures by their names, sorted, without hidden ones.

    Raises:
        DataError: if a folder cannot be read.
    """
    seen = set()  # folders that were read, and are not read again: links may lead round in a circle

    def below(folder: str) -> Iterator[os.DirEntry[str]]:
        entries = _scan(folder)
        status = os.stat(folder)  # noqa: PTH116  (paths are strings here, as there may be millions)
        if (place := (status.st_dev, status.st_ino)) in seen:
            return
        seen.add(place)
        for entry in entries:
            if _is_folder(entry):
                yield from below(entry.path)
            elif entry.name.lower().endswith(SUFFIXES):
                yield entry

    yield from below(folder)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _scan(folder: str | Path) -> list[os.DirEntry[str]]:
    """Return what is in a folder, sorted by name, without hidden files and folders."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except FileNotFoundError:
        raise DataError(f"{folder}: no such folder") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        raise DataError(f"{folder}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
