"""Fetching files from the first of several mirrors that delivers them; what it delivers is checked, not trusted."""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, cast

from .errors import DataError
from .fetch import fetch
from .scratch import scratch_folder

_SLACK = 1 << 20  # bytes that an archive may spend on its own headers and on readmes


def download_files(
    mirrors: Sequence[str],
    folder: Path,
    sizes: Mapping[str, int],
    check: Callable[[Path], object],
    *,
    archive: tuple[str, int] | None = None,
) -> None:
    """Fetch files into a folder, which is made if it is absent.

    A file appears in the folder only once it is complete and checked; an interrupted download leaves nothing behind,
    and what a killed one left is removed by the next.

    Args:
        mirrors: prefixes of the addresses, tried in this order.
        folder: where the files go.
        sizes: the files to fetch, each with the bytes of its decompressed content.
        check: called with the path of a fetched file; raises DataError if the content is not the published one.
        archive: the name of the one `.tar.gz` that holds all files, and the bytes of what it holds; None if each file
            has an address of its own.

    Raises:
        DataError: if no mirror delivers, with each address, its fault, and the folder for files put there by hand;
            or if the folder cannot be written.
    """
    deliveries = [(*archive, list(sizes))] if archive else [(name, size, [name]) for name, size in sizes.items()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        scratch = scratch_folder(folder)
    except OSError as error:
        raise DataError(f"{folder}: lacks {', '.join(sizes)}, and cannot be written ({error.strerror})") from error
    with scratch as part:
        for published, size, members in deliveries:
            faults = []
            for mirror in mirrors:
                try:
                    fetch(mirror + published, part / published, _packed(size))
                    if archive:
                        unpack(part / published, {name: sizes[name] for name in members}, size + _SLACK)
                    for name in members:
                        check(part / name)
                        (part / name).replace(folder / name)
                    break
                except (DataError, OSError) as error:
                    faults.append(f"{mirror}{published}: {str(error).removeprefix(f'{part}{os.sep}')}")
            else:
                by_hand = f"put {', '.join(members)} into {folder} by hand"
                raise DataError(f"cannot download {'; '.join(faults)}. Without a connection, {by_hand}")


def _packed(size: int) -> int:
    """Return the most bytes that content of a size takes as a gzip or `.tar.gz` file: what cannot be packed grows."""
    return size + size // 100 + _SLACK


def unpack(archive: Path, sizes: Mapping[str, int], limit: int) -> None:
    """Extract plain files beside a `.tar.gz` archive, wherever in it they lie: no path of its own is followed.

    Args:
        archive: the file.
        sizes: the names of the files, each with its bytes.
        limit: how many bytes the archive may have once decompressed.

    Raises:
        DataError: if it is damaged, goes beyond the limit, or lacks one of the files.
    """
    import gzip
    import tarfile
    import zlib

    def stream(unpacked: gzip.GzipFile) -> IO[bytes]:
        return cast(IO[bytes], _Limited(unpacked.read, limit))  # `read` is all that tarfile needs of a stream

    missing = dict(sizes)
    try:
        # As a stream: only what was asked for is ever in memory, and nothing is read twice.
        with gzip.GzipFile(archive) as unpacked, tarfile.open(fileobj=stream(unpacked), mode="r|") as members:
            for member in members:
                name = Path(member.name).name
                # A sparse member may be of any size at no cost of its own.
                if missing.get(name) != member.size or not member.isreg() or member.issparse():
                    continue
                content = members.extractfile(member)
                if content is not None:
                    with content, (archive.parent / name).open("wb") as file:
                        shutil.copyfileobj(content, file)
                    del missing[name]
                if not missing:
                    break
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError, ArithmeticError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"truncated or corrupt archive ({error})") from error
    if missing:
        raise DataError(f"the archive lacks {', '.join(sorted(missing))}")


class _Limited:
    """The reading side of a file, up to a number of bytes."""

    def __init__(self, read: Callable[[int], bytes], limit: int) -> None:
        self._read, self._left = read, limit

    def read(self, size: int) -> bytes:
        content = self._read(min(size, self._left + 1))
        self._left -= len(content)
        if self._left < 0:
            raise DataError("the archive holds more than was published")
        return content
