"""Chosen rows of an array that is too large to be copied."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class Rows:
    """Chosen rows of a memory-mapped array, which are read when they are asked for.

    It has what data sets and loaders use of an array: a shape, a data type, and indexing by rows.

    Args:
        base: the array.
        rows: `(N,)`, the indices of the rows.
    """

    def __init__(self, base: NDArray[Any], rows: NDArray[np.intp]) -> None:
        self.base, self.rows = base, rows
        self.shape = (len(rows), *base.shape[1:])
        self.dtype, self.ndim, self.nbytes = base.dtype, base.ndim, len(rows) * base[:1].nbytes

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> NDArray[Any]:
        """Return a row, or the rows of a slice or an array of indices, as a NumPy array."""
        return np.asarray(self.base[self.rows[index]])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("the rows lie apart: an array of them is a copy")
        return self[:].astype(dtype or self.dtype, copy=False)

    def at(self, rows: NDArray[np.intp]) -> Rows:
        """Return chosen rows of these."""
        return Rows(self.base, self.rows[rows])


def take(images: NDArray[Any] | Rows, rows: NDArray[np.intp]) -> NDArray[Any] | Rows:
    """Return chosen rows: a copy, or `Rows` if the array is memory-mapped."""
    if isinstance(images, Rows):
        return images.at(rows)
    return Rows(images, rows) if isinstance(images, np.memmap) else images[rows]
