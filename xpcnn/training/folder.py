"""Folders for results, always new so that nothing is overwritten, and locked while a process writes to them."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path

from ..data.files import lock_file
from .files import is_part, remove_parts

CHECKPOINT, BEST, CONFIG, HISTORY = "checkpoint.safetensors", "best.safetensors", "config.json", "history.jsonl"
LOCK = ".lock"


def weights_file(path: Path) -> Path:
    """Return the file with the trained weights of a run's folder: of the best epoch, if one was chosen."""
    return path / BEST if (path / BEST).exists() else path / CHECKPOINT


@contextlib.contextmanager
def new_folder(path: Path, advice: str) -> Iterator[None]:
    """Make a new folder, with its parents, for the block to fill; if the block fails, they are removed again.

    Args:
        path: where.
        advice: what to do if it exists already; the end of the message.

    Raises:
        ValueError: if it exists already, or cannot be made.
    """
    parents = [folder for folder in path.parents if not folder.exists()]
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        raise ValueError(f"{path} exists already; {advice}") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be made: {error.strerror}") from error
    try:
        yield
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        for folder in parents:
            with contextlib.suppress(OSError):  # not empty: another process uses it
                folder.rmdir()
        raise


class FolderLock:
    """The exclusive right to write to a folder. The system releases it when the process ends, in whatever way.

    On file systems without locks it keeps no other process out.

    Args:
        folder: an existing one.

    Raises:
        ValueError: if another process has the lock, or the folder cannot be written to.
    """

    def __init__(self, folder: Path) -> None:
        try:
            number = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise ValueError(f"{folder} cannot be written to: {error.strerror}") from error
        self._close = weakref.finalize(self, os.close, number)  # closing the file releases the lock
        try:
            lock_file(number)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
                self._close()
                raise ValueError(f"{folder} is being trained by another process") from None

    def release(self) -> None:
        """Let other processes write to the folder."""
        self._close()


def is_unused(path: Path) -> bool:
    """Return whether a folder is empty, but for what a run leaves that was killed before it wrote its first file."""
    return path.is_dir() and all(file.name == LOCK or is_part(file) for file in path.iterdir())


def check_new(path: Path) -> None:
    """Raise ValueError if a run cannot be written to a new folder at `path`."""
    try:
        if (path.exists() or path.is_symlink()) and not is_unused(path):
            raise ValueError(f"{path} exists already; choose another --output, or continue it with --resume")
        parent = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    except OSError as error:
        raise ValueError(f"{path} cannot be made: {error.strerror}") from error
    if not parent.is_dir():
        raise ValueError(f"{path} cannot be made: Not a directory")
    if not os.access(parent, os.W_OK):
        raise ValueError(f"{path} cannot be made: no permission to write to {parent}")


def claim_new(path: Path) -> FolderLock:
    """Make a new run's folder and lock it.

    Raises:
        ValueError: as `check_new` and `FolderLock` do.
    """
    check_new(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{path} cannot be made: {error.strerror}") from error
    lock = FolderLock(path)
    try:
        check_new(path)  # again, as another process may have trained a run here before this one had the lock
    except ValueError:
        lock.release()
        raise
    remove_parts(path)
    return lock


def claim_next(paths: Iterator[Path]) -> tuple[Path, FolderLock]:
    """Make and lock the first of endless paths that does not exist yet; two processes never get the same one.

    Raises:
        ValueError: if it cannot be made.
    """
    while True:
        path = next(paths)
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise ValueError(f"{path} cannot be made: {error.strerror}") from error
        return path, FolderLock(path)
