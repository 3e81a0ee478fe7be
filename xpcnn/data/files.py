"""Opening files that come from anyone, and locking files."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_file(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file, or a link to one, for reading bytes.

    Anything else is refused: opening a FIFO waits for its writer, and a device may have no end.

    Raises:
        OSError: if it does not exist, is not a regular file, or cannot be opened; `strerror` says why in a few words.
    """
    try:
        _refuse_others(os.stat(path).st_mode, path)  # noqa: PTH116  (a Path costs as much as reading a small file)
        # O_NONBLOCK: the file may have been replaced by a FIFO since the check.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        descriptor = os.open(path, flags)
    except ValueError as error:  # a name with a null character
        raise OSError(errno.EINVAL, str(error), str(path)) from error
    try:
        _refuse_others(os.fstat(descriptor).st_mode, path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _refuse_others(mode: int, path: str | os.PathLike[str]) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise OSError(errno.EINVAL, f"it is {kind}, not a file", str(Path(path)))


try:
    import fcntl

    def lock_file(number: int) -> None:
        """Lock an open file until it is closed; raise OSError if it cannot be locked, as when another process has."""
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)

except ImportError:  # Windows
    import msvcrt

    def lock_file(number: int) -> None:
        msvcrt.locking(number, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]
