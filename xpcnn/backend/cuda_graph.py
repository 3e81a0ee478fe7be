"""Operations of a GPU recorded as a CUDA graph, which is replayed by one call of the host.

A small network's step is bound by the host, which starts each of its kernels in about 10 µs; a graph starts all of them
at once. The same kernels then read and write the same memory, so what differs from step to step has to be in memory,
too: the inputs, which the caller copies there, and numbers of the host such as the learning rate, which one kernel
writes there before each replay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, NamedTuple

import numpy as np

from .cublas import Cublas
from .cuda_kernels import NUMBERS, Kernels
from .device import Array, DeviceFailedError, Namespace, rounded
from .recording import Recording, Result

_CAPTURE = range(900, 908)  # CUDA's errors of what cannot be captured
Numbers = Callable[[], Iterable[float | None] | None]


class Asked(NamedTuple):
    """A call of `Device.host_numbers`.

    Attributes:
        numbers: the function that it was given.
        places: where its numbers are written on the host, an array `(1,)` each; None for those that it left out.
    """

    numbers: Numbers
    places: list[Any]


class Block:
    """Numbers that one launch writes to the GPU, 8 bytes for each."""

    def __init__(self, xp: Namespace) -> None:
        self.host, self.device = np.zeros(NUMBERS, np.uint64), xp.zeros(NUMBERS, np.uint64)
        self.used = 0


class GraphRecording(Recording[Result]):
    """A function's operations on the GPU that is current.

    The first run is as any call of the function, but with its products and numbers as in the graph, so that all kernels
    are compiled and loaded. The second captures the graph and launches it; all others launch it again. The memory that
    it uses is its own, and is freed with it.

    Args:
        xp: CuPy.
        kernels: those of the package.
        function: see `Device.recorded`.
    """

    def __init__(self, xp: Namespace, kernels: Kernels, function: Callable[[], Result]) -> None:
        super().__init__(function)
        self._xp, self._kernels = xp, kernels
        self._products = Cublas(xp)
        self._blocks: list[Block] = []
        self._asked: list[Asked] = []
        self._rehearsed = self._capturing = False
        self._graph: Any = None
        self._result: Result
        self._pool: Any = None

    def run(self) -> Result:
        if not self._rehearsed:
            return self._rehearse()
        if self._graph is None:
            self._capture()
        else:
            for asked in self._asked:
                self._renew(asked)
        for block in self._blocks:
            self._kernels.write_numbers(block.host, block.device)
        self._graph.launch()
        return self._result

    def _rehearse(self) -> Result:
        self._products.use(self._xp.cuda.get_current_stream())
        result = self._recorded()
        self._rehearsed = True
        return result

    def _capture(self) -> None:
        cuda = self._xp.cuda
        # What the rehearsal freed is not the graph's: nothing else may use the memory of arrays between its kernels.
        self._xp.get_default_memory_pool().free_all_blocks()
        self._pool, stream = cuda.MemoryPool(), cuda.Stream(non_blocking=True)
        self._products.use(stream)
        self._asked = []
        for block in self._blocks:
            block.used = 0
        self._capturing = True
        with cuda.using_allocator(self._pool.malloc), stream:
            stream.begin_capture()
            try:
                self._result = self._recorded()
                self._graph = stream.end_capture()
            except (MemoryError, DeviceFailedError):
                raise
            except Exception as error:
                if getattr(error, "status", _CAPTURE[0]) not in _CAPTURE:
                    raise  # the GPU itself has failed
                raise DeviceFailedError(
                    "the operations cannot be a CUDA graph: something in them waits for the GPU, copies from or to the "
                    f"host, or multiplies matrices by other means than `Device.matmul` ({error})"
                ) from error
            finally:
                self._capturing = False
                if self._graph is None:
                    with suppress(Exception):  # the first error is the one to show
                        stream.end_capture()

    def _recorded(self) -> Result:
        token = _current.set(self)
        try:
            return self._function()
        finally:
            _current.reset(token)

    def matmul(self, a: Array, b: Array, out: Array, *, tf32: bool) -> None:
        """See `Device.matmul`."""
        if a.dtype != b.dtype:
            a, b = rounded(a, np.float16), rounded(b, np.float16)
        self._products.matmul(a, b, out, tf32=tf32)

    def host_numbers(self, numbers: Numbers, dtype: Any) -> list[Array | None]:
        """See `Device.host_numbers`."""
        views: list[Array | None] = []
        places: list[Any] = []
        for number in numbers() or ():
            if number is None:
                views.append(None)
                places.append(None)
                continue
            if not self._blocks or self._blocks[-1].used == NUMBERS:
                self._blocks.append(Block(self._xp))
            block = next(block for block in self._blocks if block.used < NUMBERS)
            place = slice(block.used, block.used + 1)
            block.used += 1
            host = block.host[place].view(dtype)[:1]
            host[0] = number
            places.append(host)
            views.append(block.device[place].view(dtype)[:1])
            if not self._capturing:
                self._kernels.write_numbers(block.host, block.device)
        self._asked.append(Asked(numbers, places))
        return views

    def _renew(self, asked: Asked) -> None:
        for number, place in zip(asked.numbers() or (), asked.places, strict=True):
            if (number is None) != (place is None):
                raise RuntimeError("an option was set, or unset, of operations that are recorded with or without it")
            if place is not None:
                place[0] = number


_current: ContextVar[GraphRecording[Any] | None] = ContextVar("recording", default=None)


def current_recording() -> GraphRecording[Any] | None:
    """Return the recording whose function the calling thread runs to record it, or None."""
    return _current.get()
