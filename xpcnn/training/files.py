"""Writing files so that whatever happens, a reader finds the old content or the new one, whole."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

_PART = ".part"  # ends the names of files that are being written


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Replace a file's content; it is on the disk when this returns, and a power failure before leaves the old one.

    Args:
        path: the file, which need not exist.
        data: its new content.

    Raises:
        OSError: if it cannot be written; the old content is as it was, and nothing else is left behind.
    """
    path = Path(path)
    # A name that no other process uses, and that its owner can find again: see `remove_parts`.
    part = path.with_name(f".{path.name[:100]}.{os.getpid()}-{secrets.token_hex(4)}{_PART}")
    try:
        with part.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # before the rename, or the new name may come to stand for an empty file
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def remove_parts(folder: Path) -> None:
    """Remove what a process left in a folder that was killed while it wrote; only for who has locked the folder."""
    for part in folder.glob(f".*{_PART}"):
        with contextlib.suppress(OSError):
            part.unlink()


def is_part(path: Path) -> bool:
    """Return whether a file is one that was being written."""
    return path.name.startswith(".") and path.name.endswith(_PART)


def _sync_folder(folder: Path) -> None:
    """Bring a rename to the disk. Windows and some network file systems cannot; there the rename itself has to do."""
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
