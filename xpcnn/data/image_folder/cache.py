"""The file that keeps a folder's decoded pictures, mapped into memory.

It has the pixels of all pictures that could be read, `(N, C, H, W)` bytes, then a description in JSON, and at its end
the length and the SHA-256 of the description. Its name says of which folder and for which request it is, and ends with
a fingerprint of the folder's files.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Generator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..files import open_file
from ..scratch import scratch_folder
from .decode import Plan
from .listing import Picture

_VERSION = 1  # of the file's format, and of how pictures are decoded
_TRAILER = struct.Struct("<Q32s16s")  # the length and the SHA-256 of the description, and what ends every cache
_MAGIC = b"xpcnn pictures\r\n"
_SUFFIX = ".pixels"
_LONGEST_NAME = 40  # characters of the folder's name

Decoded = tuple[NDArray[np.uint8], dict[str, str]]  # pixels of some pictures, and the faults of others by their paths


@dataclass(frozen=True)
class Cache:
    """Decoded pictures.

    Attributes:
        images: `(N, C, H, W)` uint8, mapped from the file.
        files: all files, in the order of the images.
        faults: the files without an image, by path, and what is wrong with them.
        plan: how they were decoded.
    """

    images: NDArray[np.uint8]
    files: list[Picture]
    faults: dict[str, str]
    plan: Plan

    def rows(self) -> dict[Picture, int]:
        """Return the row of each file that has an image."""
        return {file: row for row, file in enumerate(file for file in self.files if file.path not in self.faults)}


class CachePlace:
    """Where the cache of a folder lies.

    Args:
        root: the folder with the pictures.
        files: its files.
        request: what was asked for, in a few characters for the file's name.
        caches: the folder of all caches.
    """

    def __init__(self, root: Path, files: Sequence[Picture], request: str, caches: Path) -> None:
        real = os.path.realpath(root)
        place = hashlib.sha256(real.encode("utf-8", "surrogatepass")).hexdigest()[:12]
        listed = "\0".join(f"{path}\0{size}\0{time}" for path, size, time in files)
        fingerprint = hashlib.sha256(listed.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        self._files = files
        self._folder = caches
        self._of_folder = f"{Path(real).name[:_LONGEST_NAME]}-{place}-"
        self._of_request = f"{self._of_folder}{request}-"
        self._of_files = f"-{fingerprint}{_SUFFIX}"
        self.path = caches / f"{self._of_request}{fingerprint}{_SUFFIX}"

    def open(self) -> Cache | None:
        """Return the cache if there is one of exactly these files."""
        cache = _read_if_whole(self.path)
        return cache if cache is not None and cache.files == self._files else None

    def older(self) -> Cache | None:
        """Return a cache for the same request from before the folder was changed, if there is one."""
        caches = (_read_if_whole(path) for path in self._others() if path.name.startswith(self._of_request))
        return next((cache for cache in caches if cache is not None), None)

    def write(self, plan: Plan, decoded: Generator[Decoded, None, None]) -> None:
        """Write the cache, and remove those of what the folder was before.

        Args:
            plan: how the pictures are decoded.
            decoded: their pixels and faults, in the order of the files. If it raises an error, nothing is written.

        Raises:
            DataError: if it cannot be written.
        """
        faults: dict[str, str] = {}
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with scratch_folder(self._folder) as scratch, (scratch / "pixels").open("wb") as file, closing(decoded):
                for pixels, bad in decoded:
                    file.write(pixels.reshape(-1).data)
                    faults |= bad
                file.write(_description(self._files, faults, plan))
                file.flush()
                os.fsync(file.fileno())  # before the rename: else a power failure could leave a name without content
                file.close()
                self._put(scratch / "pixels")
        except OSError as error:
            raise DataError(
                f"{self._folder}: decoded pictures cannot be kept there ({error.strerror}); "
                "XPCNN_DATA in the environment names another folder"
            ) from error
        for path in self._others():
            if not path.name.endswith(self._of_files):
                with suppress(OSError):  # in use, on Windows
                    path.unlink()

    def _put(self, file: Path) -> None:
        try:
            file.replace(self.path)
        except PermissionError:
            if self.open() is None:  # else another process wrote and uses it, which hinders this one on Windows
                raise

    def _others(self) -> list[Path]:
        """Return all other caches of the folder."""
        try:
            paths = sorted(self._folder.iterdir())
        except OSError:
            return []
        return [path for path in paths if path.name.startswith(self._of_folder) and path != self.path]


def read_cache(path: Path) -> Cache:
    """Return what a cache holds.

    Pixels are not read, so damage to them goes unnoticed; all else has a checksum.

    Raises:
        DataError: if there is no file, or it is another kind of file, or damaged.
    """
    try:
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - _TRAILER.size))
            end = file.read()
            if not end.endswith(_MAGIC) or len(end) < _TRAILER.size:
                raise DataError("it does not end as a cache does")
            length, digest, _ = _TRAILER.unpack(end)
            start = size - _TRAILER.size - length
            if start < 0:
                raise DataError(f"truncated: its description has {length} bytes, the file {size}")
            file.seek(start)
            text = file.read(length)
        if hashlib.sha256(text).digest() != digest:
            raise DataError("its description is damaged")
        files, faults, plan = _parse(json.loads(text))
        shape = (len(files) - len(faults), *plan.shape)
        if math.prod(shape) != start:
            raise DataError(f"expected {math.prod(shape)} bytes of pixels, found {start}")
        images = np.memmap(path, np.uint8, "r", 0, shape) if shape[0] else np.empty(shape, np.uint8)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DataError(f"{path}: no cache of decoded pictures, or damaged ({error})") from error
    return Cache(images, files, faults, plan)


def _read_if_whole(path: Path) -> Cache | None:
    try:
        return read_cache(path)
    except DataError:
        return None


def _description(files: Sequence[Picture], faults: dict[str, str], plan: Plan) -> bytes:
    """Return what comes after the pixels."""
    info = {"version": _VERSION, "plan": asdict(plan), "faults": faults, "files": files}
    text = json.dumps(info).encode()
    return text + _TRAILER.pack(len(text), hashlib.sha256(text).digest(), _MAGIC)


def _parse(info: Any) -> tuple[list[Picture], dict[str, str], Plan]:
    if info["version"] != _VERSION:
        raise DataError(f"version {info['version']}, expected {_VERSION}")
    values = info["plan"]
    plan = Plan(**values | {"shape": tuple(values["shape"]), "because": tuple(values["because"])})
    files = [Picture(*file) for file in info["files"]]
    faults = info["faults"]
    if len(plan.shape) != 3 or not all(isinstance(length, int) and length > 0 for length in plan.shape):
        raise DataError(f"images of the shape {plan.shape}")
    if not faults.keys() <= {file.path for file in files}:
        raise DataError("faults of files that are not listed")
    return files, faults, plan
