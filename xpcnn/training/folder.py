"""Folders for results: always new ones, so that nothing is overwritten, and locked while they are written to."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path

from .files import is_part, remove_parts

LOCK = ".lock"


def make_folder(path: Path, advice: str) -> None:
    """Make a new folder, and those above it.

    Args:
        path: where.
        advice: what to do if something is there already; the end of the message.

    Raises:
        ValueError: if something is there already, or the folder cannot be made.
    """
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        raise ValueError(f"{path} exists already; {advice}") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be made: {error.strerror}") from error


@contextlib.contextmanager
def removed_on_failure(path: Path) -> Iterator[None]:
    """Remove a folder that the block makes, and those made above it, if the block fails after having made it."""
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        yield
    except BaseException:
        if path in made:
            shutil.rmtree(path, ignore_errors=True)
            for folder in made[1:]:
                with contextlib.suppress(OSError):  # somebody else's work may lie in it by now
                    folder.rmdir()
        raise


class FolderLock:
    """The right to write to a folder, which one process has at a time; the system takes it back when that one dies.

    Where the file system knows no locks there is none, and two processes are not kept apart.

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
        # Closed with this object at the latest, which also gives the lock back.
        self._close = weakref.finalize(self, os.close, number)
        try:
            _lock(number)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
                self._close()
                raise ValueError(f"{folder} is being trained by another process") from None

    def release(self) -> None:
        """Let others write to the folder."""
        self._close()


try:
    import fcntl

    def _lock(number: int) -> None:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)

except ImportError:  # Windows
    import msvcrt

    def _lock(number: int) -> None:
        msvcrt.locking(number, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]


def holds_nothing(path: Path) -> bool:
    """Return whether a folder is as good as new: empty, or left by a run that was killed while it began."""
    return path.is_dir() and all(file.name == LOCK or is_part(file) for file in path.iterdir())


def check_new(path: Path) -> None:
    """Raise ValueError if a run cannot have a folder at a place, before any work is done for it."""
    advice = "choose another output, or go on with it by --resume"
    try:
        if (path.exists() or path.is_symlink()) and not holds_nothing(path):
            raise ValueError(f"{path} exists already; {advice}")
        above = next(folder for folder in (path, *path.parents) if folder.exists())
    except OSError as error:
        raise ValueError(f"{path} cannot be made: {error.strerror}") from error
    if not above.is_dir():
        raise ValueError(f"{path} cannot be made: Not a directory")
    if not os.access(above, os.W_OK):
        raise ValueError(f"{path} cannot be made: no permission to write to {above}")


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
        check_new(path)  # another process may have begun a run here, and even finished it
    except ValueError:
        lock.release()
        raise
    remove_parts(path)
    return lock


def claim_next(paths: Iterable[Path]) -> tuple[Path, FolderLock]:
    """Make and lock the first folder that does not exist; two processes at once get two.

    Raises:
        ValueError: if it cannot be made.
    """
    for path in paths:
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise ValueError(f"{path} cannot be made: {error.strerror}") from error
        return path, FolderLock(path)
    raise ValueError("no folder to choose from")
