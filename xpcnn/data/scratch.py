"""Temporary folders beside what they are for; those that a killed process left behind are removed."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import IO

_PREFIX, _LOCK = ".download-", ".lock"
_OLD = 24 * 3600.0  # seconds after which a folder is abandoned whose lock cannot tell


def scratch_folder(folder: Path) -> AbstractContextManager[Path]:
    """Make a temporary folder inside of another, and so on its disk: a file moves out of it in one step.

    A lock on a file in it tells that its process lives; the system releases it when the process ends, however it does.
    Folders of this kind that nobody holds are removed. Where there are no such locks (Windows, some network disks),
    and for folders of versions before, age tells: a day.

    Returns:
        a context manager that gives the folder and removes it in the end.

    Raises:
        OSError: if it cannot be made.
    """
    for left in folder.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # another process may be removing it, or it is somebody else's
            if left.is_dir() and not left.is_symlink() and _abandoned(left):
                shutil.rmtree(left, ignore_errors=True)
    path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=folder))
    try:
        lock = (path / _LOCK).open("wb")
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
    _lock(lock)
    return _held(path, lock)


@contextmanager
def _held(path: Path, lock: IO[bytes]) -> Iterator[Path]:
    try:
        with lock:
            yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _abandoned(path: Path) -> bool:
    if not (path / _LOCK).exists() or os.name == "nt":
        return time.time() - path.stat().st_mtime > _OLD  # without a lock: one just being made, or an old version's
    with (path / _LOCK).open("rb") as lock:
        return _lock(lock)


def _lock(file: IO[bytes]) -> bool:
    """Lock a file until it is closed; return whether that was possible."""
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # type: ignore[attr-defined,unused-ignore]
    except OSError:
        return False
    return True
