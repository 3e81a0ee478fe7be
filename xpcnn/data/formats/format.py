"""What a file format has to say for itself, so that the catalogue of data sets can name it."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError


class Published(NamedTuple):
    """What is known of a file before it is fetched or read.

    Attributes:
        sha256: the sum of its decompressed content, in hexadecimal digits, since mirrors compress differently.
        size: the bytes of its decompressed content.
    """

    sha256: str
    size: int


@dataclass(frozen=True)
class Format:
    """How the files of a data set are read.

    Attributes:
        read: given a file and how many bytes it may have once decompressed, returns the array in it; raises DataError
            if the file holds something else, or more.
        header: returns the bytes that come before an array's own in its decompressed file.
        join: makes a split's images `(N, C, H, W)` uint8 and labels `(N,)` int64 from the arrays in its files.
    """

    read: Callable[[Path, int], NDArray[Any]]
    header: Callable[[NDArray[Any]], bytes]
    join: Callable[[Sequence[NDArray[np.uint8]]], tuple[NDArray[np.uint8], NDArray[np.int64]]]

    def read_published(self, path: Path, published: Published) -> NDArray[np.uint8]:
        """Return the array in a file, and refuse any content but the published one, however it is compressed.

        Args:
            path: the file.
            published: what it holds.

        Raises:
            DataError: if the file is absent, unreadable, of another format, or has another sum.
        """
        array = self.read(path, published.size)
        # An array determines the content of its file, so the sum needs no second pass through gzip.
        digest = hashlib.sha256(self.header(array))
        digest.update(array.reshape(-1).data)
        if digest.hexdigest() != published.sha256:
            found = f"SHA-256 {digest.hexdigest()}, expected {published.sha256}"
            raise DataError(f"{path}: not the published file ({found})")
        return array
