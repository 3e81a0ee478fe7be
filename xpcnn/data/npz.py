"""Arrays in a `.npz` file as a data set."""

from __future__ import annotations

import os
import warnings
import zipfile
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from .dataset import Dataset
from .errors import DataError
from .files import open_file
from .spec import DataSpec

_FOUR = ("x_train", "y_train", "x_test", "y_test")
_TWO = ("x", "y")
_EXPECTED = f"expected the arrays {', '.join(_FOUR)}, or {' and '.join(_TWO)}"
_CHUNK = 1 << 20
# Deflate makes bytes up to 1032 times as few; a large array of pictures that shrinks this much is a trap.
_LARGE, _MOST_SHRUNK = 1 << 30, 100


def read_npz(path: str | os.PathLike[str], *, like: Dataset | DataSpec | None = None) -> tuple[Dataset, Dataset]:
    """Read the images and labels of a `.npz` file, as `numpy.savez` and `numpy.savez_compressed` write it.

    Args:
        path: the file, with arrays `x_train`, `y_train`, `x_test` and `y_test`, or `x` and `y`, of which a fifth
            becomes the test part; capital letters are fine. Images and labels are as `Dataset` takes them.
        like: the training set whose classes, mean and std are to be used, or its spec; see `Dataset`.

    Returns:
        The training and the test part, both with the classes, mean and std of the training part, or those of `like`.

    Raises:
        DataError: if the file is absent, damaged, or has other arrays, Python objects, or arrays that do not fit.
    """
    path = Path(path)
    try:
        with warnings.catch_warnings(), open_file(path) as file:
            warnings.simplefilter("ignore")  # of headers from Python 2
            size = os.fstat(file.fileno()).st_size
            with zipfile.ZipFile(file) as archive:
                arrays = _arrays(archive, size)
        return _parts(path, arrays, like)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except zipfile.BadZipFile as error:
        raise DataError(f"{path}: no .npz file, or damaged ({error})") from error
    except MemoryError as error:
        raise DataError(f"{path}: there is not enough memory for its arrays") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except Exception as error:  # given damaged files, zipfile and NumPy raise anything from EOFError to TokenError
        raise DataError(f"{path}: damaged ({str(error) or type(error).__name__})") from error


def _parts(path: Path, arrays: dict[str, NDArray[Any]], like: Dataset | DataSpec | None) -> tuple[Dataset, Dataset]:
    name = path.stem
    if "x" in arrays:
        return Dataset(arrays["x"], arrays["y"], like=like, name=name).split(0.8, seed=0)
    train = Dataset(arrays["x_train"], arrays["y_train"], like=like, name=name, part="train")
    return train, Dataset(arrays["x_test"], arrays["y_test"], like=like or train, name=name, part="test")


def _arrays(archive: zipfile.ZipFile, size: int) -> dict[str, NDArray[Any]]:
    """Return the arrays of an archive that has `size` bytes."""
    members: dict[str, list[zipfile.ZipInfo]] = {}
    for info in archive.infolist():
        members.setdefault(info.filename.removesuffix(".npy").lower(), []).append(info)
    found = [names for names in (_FOUR, _TWO) if members.keys() >= {*names}]
    if len(found) != 1:
        there = ", ".join([*members][:8]) or "none"
        raise DataError(f"{_EXPECTED}{', not both' if found else ''}; got {there}")
    arrays = {}
    for name in found[0]:
        if len(members[name]) > 1:
            raise DataError(f"several arrays {', '.join(info.filename for info in members[name])}; {_EXPECTED}")
        try:
            arrays[name] = _array(archive, members[name][0], size)
        except DataError as error:
            raise DataError(f"{name}: {error}") from error
    return arrays


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, size: int) -> NDArray[Any]:
    """Return the array in a member, whose size is checked before memory is taken for it."""
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError("compressed in another way than NumPy does")
    shrunk = info.file_size > _LARGE and info.file_size > _MOST_SHRUNK * info.compress_size
    if info.compress_size > size or info.file_size > 1032 * info.compress_size + 64 or shrunk:
        raise DataError(
            f"{info.compress_size} of the file's {size} bytes are said to be {info.file_size} once decompressed; "
            "numpy.savez writes files without compression"
        )
    with archive.open(info) as member:
        header = _header(member)
        if header.dtype.hasobject:
            raise DataError("it has Python objects, which are not read: store labels as numbers, or as dtype=str")
        nbytes = header.dtype.itemsize
        for length in header.shape:
            nbytes *= length
        rest = info.file_size - member.tell()
        if nbytes != rest:
            raise DataError(f"shape {header.shape} of {header.dtype} takes {nbytes} bytes, found {rest}")
        content = np.empty(nbytes, np.uint8)
        first = 0
        while chunk := member.read(_CHUNK):  # to the end, where zipfile compares the checksum
            content[first : first + len(chunk)] = np.frombuffer(chunk, np.uint8)
            first += len(chunk)
        if first != nbytes:
            raise DataError(f"truncated: expected {nbytes} bytes, found {first}")
    if header.dtype.kind == "U" and (content.view(header.dtype.byteorder + "u4" if nbytes else "u4") > 0x10FFFF).any():
        raise DataError("damaged: text with characters that there are not")
    array = content.view(header.dtype).reshape(header.shape, order="F" if header.fortran_order else "C")
    return array.astype(header.dtype.newbyteorder("="), copy=False)


class _Header(NamedTuple):
    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype[Any]


def _header(member: IO[bytes]) -> _Header:
    version = npy.read_magic(member)
    if version == (1, 0):
        return _Header(*npy.read_array_header_1_0(member))
    if version == (2, 0):
        return _Header(*npy.read_array_header_2_0(member))
    raise DataError(f"an array in version {version} of NumPy's format, which is for records")
