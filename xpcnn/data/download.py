"""Fetching files from the first of several mirrors that delivers them; what it delivers is checked, not trusted."""

import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from .errors import DataError

TIMEOUT = 30.0  # seconds without an answer or a byte, after which the next mirror is tried


def download_files(
    mirrors: Sequence[str],
    folder: Path,
    names: Sequence[str],
    check: Callable[[Path], object],
    *,
    archive: str | None = None,
) -> None:
    """Fetch files into a folder, which is made if it is absent.

    A file appears in the folder only once it is complete and checked; an interrupted download leaves nothing behind.

    Args:
        mirrors: prefixes of the addresses, tried in this order.
        folder: where the files go.
        names: the files to fetch.
        check: called with the path of a fetched file; raises DataError if the content is not the published one.
        archive: the name of the one `.tar.gz` that holds all files, or None if each has an address of its own.

    Raises:
        DataError: if no mirror delivers, with each address, its fault, and the folder for files put there by hand;
            or if the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Inside the folder and so on its disk: a file moves out of it in one step.
        scratch = tempfile.TemporaryDirectory(prefix=".download-", dir=folder)
    except OSError as error:
        raise DataError(f"{folder}: lacks {', '.join(names)}, and cannot be written ({error.strerror})") from error
    deliveries = [(archive, names)] if archive else [(name, [name]) for name in names]
    with scratch as part:
        for published, members in deliveries:
            faults = []
            for mirror in mirrors:
                try:
                    _fetch(mirror + published, Path(part, published))
                    if archive:
                        _unpack(Path(part, published), members)
                    for name in members:
                        check(Path(part, name))
                        Path(part, name).replace(folder / name)
                    break
                except (DataError, OSError) as error:
                    faults.append(f"{mirror}{published}: {str(error).removeprefix(part + os.sep)}")
            else:
                by_hand = f"put {', '.join(members)} into {folder} by hand"
                raise DataError(f"cannot download {'; '.join(faults)}. Without a connection, {by_hand}")


def _fetch(address: str, path: Path) -> None:
    # Imported here: most runs find their data on the disk.
    from http.client import HTTPException
    from urllib.request import urlopen

    from tqdm import tqdm

    try:
        with urlopen(address, timeout=TIMEOUT) as answer, path.open("wb") as file:
            size = getattr(answer, "length", None)  # unknown to other protocols than HTTP
            with tqdm.wrapattr(file, "write", total=size, desc=path.name) as counted:
                shutil.copyfileobj(answer, counted)
    except HTTPException as error:
        raise DataError(f"the connection broke ({error!r})") from error


def _unpack(archive: Path, names: Sequence[str]) -> None:
    """Extract the named plain files beside the archive, wherever in it they lie: no path of its own is followed."""
    import tarfile

    missing = set(names)
    try:
        with tarfile.open(archive, "r:gz") as members:
            for member in members:
                name = Path(member.name).name
                content = members.extractfile(member) if name in missing and member.isfile() else None
                if content is not None:
                    with content, (archive.parent / name).open("wb") as file:
                        shutil.copyfileobj(content, file)
                    missing.remove(name)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise DataError(f"truncated or corrupt archive ({error})") from error
    if missing:
        raise DataError(f"the archive lacks {', '.join(sorted(missing))}")
