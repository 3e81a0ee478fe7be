"""CIFAR-10's binary format: records of one label byte and 3072 pixel bytes, with nothing around them."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..files import open_file
from .format import Format

RECORD = 1 + 3 * 32 * 32


def read_cifar(path: str | os.PathLike[str], limit: int | None = None) -> NDArray[np.uint8]:
    """Read one file of CIFAR-10's binary version (https://www.cs.toronto.edu/~kriz/cifar.html).

    Args:
        path: the file.
        limit: how many bytes it may have; None for any number.

    Returns:
        The records `(N, 3073)`: a label from 0 to 9, then the image as `(3, 32, 32)`, red plane first.

    Raises:
        DataError: if the file is missing, unreadable, beyond the limit, not a whole number of records, or holds another
            label.
    """
    path = Path(path)
    try:
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0 or size % RECORD:
                raise DataError(f"{path}: expected whole records of {RECORD} bytes, got {size} bytes")
            if limit is not None and size > limit:
                raise DataError(f"{path}: expected at most {limit} bytes, got {size}")
            records = np.fromfile(file, np.uint8, size).reshape(-1, RECORD)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if (highest := records[:, 0].max()) > 9:
        raise DataError(f"{path}: expected labels from 0 to 9, got {highest}")
    return records


def _join(arrays: Sequence[NDArray[np.uint8]]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return `(N, 3, 32, 32)` images and `(N,)` labels from the records of several files."""
    images = np.concatenate([records[:, 1:] for records in arrays]).reshape(-1, 3, 32, 32)
    return images, np.concatenate([records[:, 0] for records in arrays]).astype(np.int64)


CIFAR10 = Format(read_cifar, lambda records: b"", _join)
