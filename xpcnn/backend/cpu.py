"""The CPU: NumPy, with the work of each layer split over a pool of threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from math import ceil, prod
from typing import Any

import numpy as np

from .device import ELEMENT_WORK, Array, Device, Result, Shape, Task, blocks, register
from .memory import MemoryPool
from .threads import Workers


def _available_cores() -> int:
    # A container or a batch system may grant fewer cores than the machine has.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class CpuDevice(Device):
    """NumPy, with the work of each layer split over a pool of threads; the only instance is `CPU`."""

    name = "cpu"
    xp = np
    tile_bytes = 2 << 20  # small enough to stay in cache until its product, large enough to outweigh the Python calls
    launch_bytes = 8 << 10
    part_work = 1 << 25  # multiply-adds below which waking another thread costs more than it saves
    fewest_parts = 4
    most_parts = 16

    def __init__(self) -> None:
        self._workers = Workers(_available_cores())
        # With AVX-512, OpenBLAS reads the operands of products up to this size in place instead of packing them first,
        # which is twice as fast for narrow ones.
        has_small_products = self._workers.blas_architectures & {"SkylakeX", "Cooperlake", "SapphireRapids"}
        self.small_product = 10**6 if has_small_products else 0
        self.winograd_channels = 64 if has_small_products else 32
        self._local = threading.local()
        self._memory = MemoryPool()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork)

    def _after_fork(self) -> None:
        self._memory = MemoryPool()  # a lock held by one of the parent's threads would never be released

    def __reduce__(self) -> str:
        return "CPU"  # pickled as the name of the module's one object

    @property
    def threads(self) -> int:
        """The number of threads that work in parallel; by default the number of cores this process may use."""
        return self._workers.threads

    @threads.setter
    def threads(self, count: int) -> None:
        self._workers.threads = count

    @property
    def on_host(self) -> bool:
        return True

    @property
    def description(self) -> str:
        return f"NumPy {np.__version__}, {self.threads} thread{'s' if self.threads > 1 else ''}"

    def to_host(self, x: Array) -> np.ndarray[Any, Any]:
        return np.asarray(x)

    def empty(self, shape: Shape, dtype: Any) -> Array:
        return self._memory.empty(shape, dtype)

    def protect(self, x: Array) -> None:
        x.setflags(write=False)

    def scratch(self, shape: Shape, dtype: Any, slot: str) -> Array:
        # Each thread keeps its scratch memory: touching fresh pages costs as much as the arithmetic done in them.
        buffers = self._local.__dict__.setdefault("buffers", {})
        dtype = np.dtype(dtype)
        size = dtype.itemsize * prod(shape)
        buffer = buffers.get(slot)
        if buffer is None or buffer.size < size:
            buffer = buffers[slot] = np.empty(size, np.uint8)
        return buffer[:size].view(dtype).reshape(shape)

    def parts(self, work: int, at_most: int | None = None) -> int:
        if work < self.part_work:
            return 1
        # More parts must be long ones: shorter ones made a step of conv 32-64 3 % slower on two threads.
        count = min(max(self.fewest_parts, work // (4 * self.part_work)), self.most_parts)
        if at_most is not None:
            count = min(count, at_most)
        return 1 << max(1, count).bit_length() - 1  # a power of two divides evenly among most numbers of threads

    def map(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> list[Result]:
        return self._workers.map(function, tasks)

    def map_elements(self, function: Callable[..., None], *operands: Any, in_pieces: bool = False) -> None:
        size, itemsize = operands[0].size, operands[0].itemsize
        parts = self.parts(2 * size * ELEMENT_WORK)
        pieces = max(parts, ceil(8 * size * itemsize / self.tile_bytes)) if in_pieces else parts
        if pieces == 1:
            return function(*operands)
        flat = [operand.reshape(-1) if isinstance(operand, np.ndarray) else operand for operand in operands]
        slices = blocks(size, pieces)

        def compute(part: slice) -> None:
            for piece in slices[part]:
                function(*(operand[piece] if isinstance(operand, np.ndarray) else operand for operand in flat))

        self.map(compute, blocks(pieces, parts))
        return None

    # BLAS sums four times as fast as NumPy, and as accurately.
    def row_sums(self, x: Array) -> Array:
        ones = self.scratch((x.shape[1], 1), x.dtype, "ones")
        ones[...] = 1
        with self.one_blas_thread():
            return np.matmul(x, ones)

    def row_dots(self, x: Array, y: Array) -> Array:
        with self.one_blas_thread():
            return np.matmul(x[:, None, :], y[:, :, None])[:, 0]

    def overlapping(self) -> AbstractContextManager[None]:
        return self._workers.overlapping()

    def background(self, task: Callable[[], Result], work: int) -> Callable[[], Result]:
        if self.parts(work) == 1:
            return super().background(task, work)
        return self._workers.background(task)

    def one_blas_thread(self) -> AbstractContextManager[None]:
        return self._workers.one_blas_thread()


CPU = CpuDevice()
for _array_type in (np.ndarray, np.generic):  # NumPy's reductions return numbers where CuPy's return 0-d arrays
    register(_array_type, lambda array: CPU)
