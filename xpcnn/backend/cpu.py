"""The CPU: NumPy, with the work of a layer spread over a pool of threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from math import ceil, prod
from typing import Any

import numpy as np

from .device import Array, Device, Result, Shape, Task, blocks, register
from .memory import MemoryPool
from .threads import Workers


def _available_cores() -> int:
    # A container or a batch system may grant fewer cores than the machine has.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class CpuDevice(Device):
    """NumPy, with the work of a layer spread over a pool of threads; its one object is `CPU`."""

    name = "cpu"
    xp = np
    tile_bytes = 2 << 20  # stays in cache between lowering and product, and outweighs the calls it takes
    launch_bytes = 8 << 10
    task_count = 4

    def __init__(self) -> None:
        self._workers = Workers(_available_cores())
        # With AVX-512, OpenBLAS takes the operands of products of up to this size as they lie, where it otherwise
        # copies them into its own order first: twice as fast for narrow ones.
        has_small_products = self._workers.blas_architectures & {"SkylakeX", "Cooperlake", "SapphireRapids"}
        self.small_product = 10**6 if has_small_products else 0
        self.winograd_channels = 64 if has_small_products else 32
        self._local = threading.local()
        self._memory = MemoryPool()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork)

    def _after_fork(self) -> None:
        self._memory = MemoryPool()  # a lock that one of the parent's threads held stays locked for good

    def __reduce__(self) -> str:
        return "CPU"  # pickled as the name of the module's one object

    @property
    def threads(self) -> int:
        """How many threads share the work, at first the number of cores this process may use."""
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

    def scratch(self, shape: Shape, dtype: Any, slot: str) -> Array:
        # Fresh pages cost as much as the arithmetic done in them, so each thread keeps its working memory.
        buffers = self._local.__dict__.setdefault("buffers", {})
        dtype = np.dtype(dtype)
        size = dtype.itemsize * prod(shape)
        buffer = buffers.get(slot)
        if buffer is None or buffer.size < size:
            buffer = buffers[slot] = np.empty(size, np.uint8)
        return buffer[:size].view(dtype).reshape(shape)

    def map(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> list[Result]:
        return self._workers.map(function, tasks)

    def map_elements(self, function: Callable[..., None], *operands: Any, in_pieces: bool = False) -> None:
        size, itemsize = operands[0].size, operands[0].itemsize
        shares = self.threads if size >= 1 << 20 else 1  # waking another thread costs about as much as a million sums
        pieces = max(shares, ceil(8 * size * itemsize / self.tile_bytes)) if in_pieces else shares
        if pieces == 1:
            return function(*operands)
        flat = [operand.reshape(-1) if isinstance(operand, np.ndarray) else operand for operand in operands]

        def share(parts: Sequence[slice]) -> None:
            for part in parts:
                function(*(operand[part] if isinstance(operand, np.ndarray) else operand for operand in flat))

        parts = blocks(size, pieces)
        self.map(share, [parts[some] for some in blocks(len(parts), shares)])
        return None

    # BLAS adds up four times as fast as NumPy's own sum, and as exactly.
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

    def background(self, task: Callable[[], Result], multiplications: int) -> Callable[[], Result]:
        if multiplications < 1 << 25:  # handing it over would take as long
            return super().background(task, multiplications)
        return self._workers.background(task)

    def one_blas_thread(self) -> AbstractContextManager[None]:
        return self._workers.one_blas_thread()


CPU = CpuDevice()
for _array_type in (np.ndarray, np.generic):  # NumPy's reductions return numbers where CuPy's return 0-d arrays
    register(_array_type, lambda array: CPU)
