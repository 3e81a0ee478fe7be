"""Temporary folders for downloads; those that a killed process left behind are removed."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import IO

from .files import lock_file

_PREFIX, _LOCK = ".download-", ".lock"
_OLD = 24 * 3600.0  # seconds


def scratch_folder(folder: Path) -> AbstractContextManager[Path]:
    """Make a temporary folder in another folder, so that files move out of it in one step.

    The process locks a file in it; the system releases the lock when the process ends, however it ends. Temporary
    folders whose lock is free are removed first. Where there are no such locks (Windows, some network disks), and for
    folders of older versions, which have none, those older than a day are removed.

    Returns:
        a context manager whose value is the folder, which it removes at its end.

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
        return time.time() - path.stat().st_mtime > _OLD  # no lock: just being made, or of an older version
    with (path / _LOCK).open("rb") as lock:
        return _lock(lock)


def _lock(file: IO[bytes]) -> bool:
    """Lock a file until it is closed; return whether that was possible."""
    try:
        lock_file(file.fileno())
    except OSError:
        return False
    return True
