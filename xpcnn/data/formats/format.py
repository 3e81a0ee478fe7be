"""What a file format has to say for itself, so that the catalogue of data sets can name it."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError


@dataclass(frozen=True)
class Format:
    """How the files of a data set are read.

    Attributes:
        read: returns the array in a file; raises DataError if the file holds something else.
        header: returns the bytes that come before an array's own in its decompressed file.
        join: makes a split's images `(N, C, H, W)` uint8 and labels `(N,)` int64 from the arrays in its files.
    """

    read: Callable[[Path], NDArray[Any]]
    header: Callable[[NDArray[Any]], bytes]
    join: Callable[[Sequence[NDArray[np.uint8]]], tuple[NDArray[np.uint8], NDArray[np.int64]]]

    def read_published(self, path: Path, sha256: str) -> NDArray[np.uint8]:
        """Return the array in a file, and refuse any content but the published one, however it is compressed.

        Args:
            path: the file.
            sha256: the sum of its decompressed content, in hexadecimal digits.

        Raises:
            DataError: if the file is absent, unreadable, of another format, or has another sum.
        """
        array = self.read(path)
        # An array determines the content of its file, so the sum needs no second pass through gzip.
        digest = hashlib.sha256(self.header(array))
        digest.update(array.reshape(-1).data)
        if digest.hexdigest() != sha256:
            raise DataError(f"{path}: not the published file (SHA-256 {digest.hexdigest()}, expected {sha256})")
        return array
