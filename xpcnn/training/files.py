"""Writing files atomically: a reader finds the old content or the new one, whatever happens to the writer."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_PART = ".part"  # ends the names of files that are being written


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Replace a file's content; see `replacing`."""
    with replacing(path) as file:
        file.write(data)


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Replace a file's content by what the block writes. After the block it is on the disk; until then the old one is.

    Args:
        path: the file, which need not exist.

    Returns:
        a context manager whose value is an empty file to write to. If the block fails, it is removed.

    Raises:
        OSError: if it cannot be written; then the old content stays, and no temporary file.
    """
    path = Path(path)
    # A name that no other process uses. `remove_parts` finds it if this process is killed.
    part = path.with_name(f".{path.name[:100]}.{os.getpid()}-{secrets.token_hex(4)}{_PART}")
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # before the rename: else a power failure could leave the new name without content
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def remove_parts(folder: Path) -> None:
    """Remove the temporary files of a process that was killed while it wrote; the caller has the folder's lock."""
    for part in folder.glob(f".*{_PART}"):
        with contextlib.suppress(OSError):
            part.unlink()


def is_part(path: Path) -> bool:
    """Return whether a file is a temporary one of `write_atomically`."""
    return path.name.startswith(".") and path.name.endswith(_PART)


def _sync_folder(folder: Path) -> None:
    """Write a rename to the disk. Windows and some network file systems cannot; there the rename has to be enough."""
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
