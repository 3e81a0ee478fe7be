"""Large blocks of host memory, used again once no array refers to them.

A training step writes as much as the one before it, but the system takes large blocks back when they are freed, and
filling fresh pages costs as much as the arithmetic done in them. CuPy keeps such a pool for a GPU; this is NumPy's.

Memory comes from the system in large slabs. Blocks are cut from them, and grow together with their idle neighbours
again when they are given back: the layers of a network differ in size.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from typing import Any

import numpy as np

_SMALLEST_BLOCK = 1 << 16  # bytes; smaller blocks the C library keeps by itself
_MAX_IDLE = 64 << 20  # bytes that may lie idle whatever is in use
_SLAB_SIZE = 64 << 20  # bytes asked of the system at once: of its pages, only those that are written to take up memory
_ALIGNMENT = 64  # bytes: a line of the cache


class _Slab:
    """Memory from the system, and which parts of it lie idle."""

    def __init__(self, size: int) -> None:
        memory = np.empty(size + _ALIGNMENT, np.uint8)
        skip = -memory.ctypes.data % _ALIGNMENT
        self.memory = memoryview(memory)[skip : skip + size]  # type: ignore[arg-type]
        self.size = size
        self.stop_of: dict[int, int] = {}  # of each idle part, by its start
        self.start_of: dict[int, int] = {}  # and by its stop


class MemoryPool:
    """Makes arrays in blocks of memory that it takes back when the last array in a block is gone."""

    def __init__(self) -> None:
        # Idle parts by size, as (slab, start). Dictionaries, as they keep the order and lose any entry quickly.
        self._idle: dict[int, dict[tuple[_Slab, int], None]] = {}
        self._used: dict[int, tuple[weakref.ref[Any], _Slab, int, int]] = {}
        self._idle_bytes = self._used_bytes = 0
        self._dead: deque[int] = deque()  # of arrays that are gone, the keys in `_used`
        self._lock = threading.Lock()

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
        """Return an uninitialised C-contiguous array."""
        dtype = np.dtype(dtype)
        size = dtype.itemsize
        for length in shape:
            size *= length
        if size < _SMALLEST_BLOCK:
            return np.empty(shape, dtype)
        slab, start, stop = self._take(_rounded(size))
        # An array that does not own its memory, and is no view of one that does: NumPy makes every view of it, and of
        # its views, refer to it. So it lives exactly as long as anything that looks into the block.
        owner = np.frombuffer(slab.memory[start:stop], np.uint8)
        reference = weakref.ref(owner, self._mark_dead)
        self._used[id(reference)] = reference, slab, start, stop
        array: np.ndarray[Any, Any] = owner[:size].view(dtype).reshape(shape)
        return array

    def _take(self, size: int) -> tuple[_Slab, int, int]:
        with self._lock:
            self._collect()
            self._used_bytes += size
            # The smallest that is large enough; of two alike the one given back last, which may still be in cache.
            fitting = size if size in self._idle else min((s for s in self._idle if s > size), default=0)
            if not fitting:
                self._return_slabs()
                slab = _Slab(max(size, _SLAB_SIZE))
                self._add(slab, 0, slab.size)
                fitting = slab.size
            slab, start = next(reversed(self._idle[fitting]))
            self._remove(slab, start, start + fitting)
            if fitting > size:
                self._add(slab, start + size, start + fitting)
            return slab, start, start + size

    def _mark_dead(self, reference: weakref.ref[Any]) -> None:
        # An array may die at any point of any thread, also in here, when the interpreter collects garbage: so its death
        # is only noted, which needs no lock.
        self._dead.append(id(reference))

    def _collect(self) -> None:
        """Take back the blocks of arrays that are gone."""
        while self._dead:
            _, slab, start, stop = self._used.pop(self._dead.popleft())
            self._used_bytes -= stop - start
            if stop in slab.stop_of:
                after = slab.stop_of[stop]
                self._remove(slab, stop, after)
                stop = after
            if start in slab.start_of:
                before = slab.start_of[start]
                self._remove(slab, before, start)
                start = before
            self._add(slab, start, stop)

    def _return_slabs(self) -> None:
        """Give what has long been idle back to the system: no block of it fits, so the work has changed."""
        whole = [(slab, size) for size, parts in self._idle.items() for slab, _ in parts if slab.size == size]
        for slab, size in whole:
            if self._idle_bytes <= max(_MAX_IDLE, self._used_bytes):
                break
            self._remove(slab, 0, size)

    def _add(self, slab: _Slab, start: int, stop: int) -> None:
        slab.stop_of[start], slab.start_of[stop] = stop, start
        self._idle.setdefault(stop - start, {})[slab, start] = None
        self._idle_bytes += stop - start

    def _remove(self, slab: _Slab, start: int, stop: int) -> None:
        del slab.stop_of[start], slab.start_of[stop]
        parts = self._idle[stop - start]
        del parts[slab, start]
        if not parts:
            del self._idle[stop - start]
        self._idle_bytes -= stop - start


def _rounded(size: int) -> int:
    """Return the size rounded up to one of eight steps between powers of two, so that similar sizes share blocks."""
    step = 1 << max(0, size.bit_length() - 4)
    return -(-size // step) * step
