"""The IDX file format, in which MNIST and its relatives are published: a small header, then one array.

The header is two zero bytes, a byte for the data type, a byte for the number of dimensions, and each dimension as a
big-endian 32-bit integer; the values follow, big-endian, last dimension fastest. Format by LeCun, Cortes and Burges,
http://yann.lecun.com/exdb/mnist/.
"""

import gzip
import math
import os
import struct
import zlib
from collections.abc import Sequence
from io import BufferedIOBase
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..files import open_file
from .format import Format

_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_CODES = {np.dtype(dtype).newbyteorder("="): code for code, dtype in _DTYPES.items()}
_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK = 1 << 20


def read_idx(path: str | os.PathLike[str], limit: int | None = None) -> NDArray[Any]:
    """Read the array of a plain or gzip-compressed IDX file; its content tells which.

    Args:
        path: the file.
        limit: how many bytes it may have once decompressed; None for as many as its header says.

    Returns:
        A writable array in native byte order, with the shape and data type that the header states.

    Raises:
        DataError: if the file is missing, unreadable, not IDX, beyond the limit, shorter or longer than its header
            says, or corrupt.
    """
    path = Path(path)
    try:
        with open_file(path) as raw:
            compressed = raw.read(2) == _GZIP_MAGIC
            raw.seek(0)
            if not compressed:
                return _parse(raw, path, limit)
            with gzip.GzipFile(fileobj=raw) as unpacked:
                return _parse(unpacked, path, limit)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: truncated or corrupt gzip data ({error})") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def _parse(file: BufferedIOBase | BinaryIO, path: Path, limit: int | None) -> NDArray[Any]:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _DTYPES or magic[3] == 0:
        raise DataError(f"{path}: not an IDX file (first bytes: {magic.hex(' ') or 'none'})")
    dtype, ndim = np.dtype(_DTYPES[magic[2]]), magic[3]
    sizes = file.read(4 * ndim)
    if len(sizes) < 4 * ndim:
        raise DataError(f"{path}: truncated in the header, which announces {ndim} dimensions")
    shape = struct.unpack(f">{ndim}I", sizes)
    expected = math.prod(shape) * dtype.itemsize

    if limit is not None and len(magic) + len(sizes) + expected > limit:
        raise DataError(f"{path}: shape {shape} of {dtype.name} takes {expected} bytes, but the file may have {limit}")

    # Memory grows with the bytes that really come, since a damaged header can announce any size. The byte asked for
    # beyond the last one finds trailing data, and makes gzip reach its end and compare its own checksum.
    content = bytearray()
    while chunk := file.read(min(_CHUNK, expected + 1 - len(content))):
        content += chunk
    if len(content) != expected:
        fault = "truncated" if len(content) < expected else "trailing bytes"
        found = len(content) if len(content) < expected else "more"
        raise DataError(f"{path}: {fault}: shape {shape} of {dtype.name} takes {expected} bytes, found {found}")
    try:
        array = np.frombuffer(content, dtype).reshape(shape)
    except ValueError as error:  # such as 65 dimensions, or an empty array with absurd others
        raise DataError(f"{path}: impossible shape {shape} ({error})") from error
    return array.astype(dtype.newbyteorder("="), copy=False)


def idx_header(array: NDArray[Any]) -> bytes:
    """Return the header bytes of the IDX file that holds the array.

    Raises:
        DataError: if IDX has no code for the array's data type, or the array has no dimensions.
    """
    code = _CODES.get(array.dtype.newbyteorder("="))
    if code is None or array.ndim == 0:
        known = ", ".join(dtype.name for dtype in _CODES)
        raise DataError(f"IDX holds arrays of 1 dimension or more of {known}, got {array.ndim} of {array.dtype.name}")
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)


def write_idx(path: str | os.PathLike[str], array: NDArray[Any]) -> None:
    """Write the array as an IDX file, gzip-compressed if the name ends in `.gz`; equal arrays give equal bytes.

    Args:
        path: the file to write; one that exists is replaced.
        array: uint8, int8, int16, int32, float32 or float64, one dimension or more.

    Raises:
        DataError: if IDX cannot hold such an array. OSError passes through if the file cannot be written.
    """
    path = Path(path)
    content = idx_header(array) + array.astype(array.dtype.newbyteorder(">")).tobytes()
    with path.open("wb") as file:
        if path.suffix != ".gz":
            file.write(content)
            return
        # Neither a name nor a time in the gzip header: the bytes follow from the array alone.
        with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=file, mtime=0) as packed:
            packed.write(content)


def _join(arrays: Sequence[NDArray[np.uint8]]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return `(N, 1, H, W)` images and `(N,)` labels from the arrays of MNIST's two files."""
    images, labels = arrays
    return images[:, None], labels.astype(np.int64)


IDX = Format(read_idx, idx_header, _join)
