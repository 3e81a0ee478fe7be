"""Large blocks of host memory, used again once no array refers to them.

A training step writes as much as the one before it, but the system takes large blocks back when they are freed, and
filling fresh pages costs as much as the arithmetic done in them. CuPy keeps such a pool for a GPU; this is NumPy's.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from typing import Any

import numpy as np

_LEAST = 1 << 16  # bytes; smaller ones the C library keeps by itself
_SPARE = 64 << 20  # bytes that may lie idle whatever is in use


class MemoryPool:
    """Makes arrays in blocks of memory that it takes back when the last array in a block is gone."""

    def __init__(self) -> None:
        self._idle: OrderedDict[int, list[memoryview]] = OrderedDict()  # by size; the sizes asked for last come last
        self._used: dict[int, tuple[weakref.ref[Any], memoryview]] = {}
        self._idle_bytes = self._used_bytes = 0
        self._lock = threading.RLock()  # an array may die, and its block return, at any point of its own thread

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
        """Return an uninitialised C-contiguous array."""
        dtype = np.dtype(dtype)
        size = dtype.itemsize
        for length in shape:
            size *= length
        if size < _LEAST:
            return np.empty(shape, dtype)
        block = self._take(_rounded(size))
        # An array that does not own its memory, and is no view of one that does: NumPy makes every view of it, and of
        # its views, refer to it. So it lives exactly as long as anything that looks into the block.
        owner = np.frombuffer(block, np.uint8)
        reference = weakref.ref(owner, self._give_back)
        self._used[id(reference)] = reference, block
        array: np.ndarray[Any, Any] = owner[:size].view(dtype).reshape(shape)
        return array

    def _take(self, size: int) -> memoryview:
        with self._lock:
            self._used_bytes += size
            blocks = self._idle.get(size)
            if blocks:
                self._idle.move_to_end(size)
                self._idle_bytes -= size
                return blocks.pop()
            # Another size is wanted than those that lie idle: the work has changed, and some will not be needed again.
            while self._idle_bytes > max(_SPARE, self._used_bytes):
                oldest, unused = self._idle.popitem(last=False)
                self._idle_bytes -= oldest * len(unused)
        return memoryview(np.empty(size, np.uint8))  # type: ignore[arg-type]

    def _give_back(self, reference: weakref.ref[Any]) -> None:
        with self._lock:
            _, block = self._used.pop(id(reference))
            self._used_bytes -= block.nbytes
            self._idle_bytes += block.nbytes
            self._idle.setdefault(block.nbytes, []).append(block)


def _rounded(size: int) -> int:
    """Return the size rounded up to one of eight steps between powers of two, so that similar sizes share blocks."""
    step = 1 << max(0, size.bit_length() - 4)
    return -(-size // step) * step
