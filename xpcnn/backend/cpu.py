"""The CPU: NumPy, with the work of each layer split over a pool of threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from math import ceil, gcd, inf, prod
from typing import Any

import numpy as np

from .device import CHAIN_WORK, ELEMENT_WORK, Array, Device, Shape, Task, blocks, register
from .memory import MemoryPool
from .recording import Result
from .threads import Workers, usable_cores


def _usual_threads() -> int:
    cores = usable_cores()
    # Programs that start several processes, such as joblib, divide the cores among them by this variable. With nested
    # parallelism it is a list.
    threads = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return min(cores, max(1, int(threads))) if threads.isdecimal() else cores


_FEW = 8  # rows that are added one by one
_ROWS = 256  # how many numbers of a column are summed at a time
_ROWS_APART = 16  # from so many rows on, those of an array to be transposed are moved apart
_COLUMNS_APART = 4096  # so many columns at a time


class CpuDevice(Device):
    """NumPy, with the work of each layer split over a pool of threads; the only instance is `CPU`."""

    name = "cpu"
    xp = np
    tile_bytes = 2 << 20  # small enough to stay in cache until its product, large enough to outweigh the Python calls
    launch_bytes = 8 << 10
    row_channels = 64
    chunk_bytes = 6 << 20  # activations that stay in the third-level cache from one layer to the next
    adds_products = True
    long_row = 1024
    part_work = 1 << 25  # multiply-adds below which waking another thread costs more than it saves
    fewest_parts = 4  # of more work than that; each of more parts has this much, as short ones lose 3 % on two threads
    most_parts = 16

    def __init__(self) -> None:
        self._workers = Workers(_usual_threads())
        # With AVX-512, OpenBLAS reads the operands of products up to this size in place instead of packing them first,
        # which is twice as fast for narrow ones.
        has_small_products = self._workers.blas_architectures & {"SkylakeX", "Cooperlake", "SapphireRapids"}
        self.small_product = 10**6 if has_small_products else 0
        self.winograd_channels = 64 if has_small_products else 32
        self.winograd_few = 24 if has_small_products else inf
        self._local = threading.local()
        self._kept_ones: dict[Any, Array] = {}  # by dtype: what row_sums and column_sums multiply by
        self._memory = MemoryPool()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork)

    def _after_fork(self) -> None:
        self._memory = MemoryPool()  # a lock held by one of the parent's threads would never be released

    def __reduce__(self) -> str:
        return "CPU"  # pickled as the name of the module's one object

    @property
    def threads(self) -> int:
        """The number of threads that work in parallel.

        By default the number of cores this process may use, or `OMP_NUM_THREADS` if that is fewer.
        """
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

    def strided(self, x: Array, shape: Shape, strides: Shape) -> Array:
        return np.ndarray(shape, x.dtype, x, 0, strides)  # a tenth of the time that NumPy's as_strided takes

    def einsum(self, subscripts: str, *operands: Array, out: Array) -> None:
        np.einsum(subscripts, *operands, out=out)

    def pools_on_planes(self, images: int, pixels: int, *, overlapping: bool) -> bool:
        # Windows side by side read each pixel once: that pays for copies only where the inner loops are very short.
        return (overlapping and pixels >= 1 << 12) or (images < 32 and pixels >= 1 << 18)

    def as_runs(self, x: Array) -> Array:
        # NumPy copies items of any size in one loop, but starts a new one for each run along a short last axis. Complex
        # numbers are copied faster than items of unknown type.
        length = x.shape[-1]
        if length < 2 or not x.size:
            return x
        return x.view({8: np.complex64, 16: np.complex128}.get(length * x.itemsize, f"V{length * x.itemsize}"))

    def parts(self, work: int, at_most: int | None = None) -> int:
        if work < self.part_work:
            return 1
        count = min(max(self.fewest_parts, work // self.part_work), self.most_parts)
        if at_most is not None:
            count = min(count, at_most)
        return 1 << max(1, count).bit_length() - 1  # a power of two divides evenly among most numbers of threads

    def map(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> list[Result]:
        return self._workers.map(function, tasks)

    def map_elements(self, function: Callable[..., None], *operands: Any, in_pieces: bool = False) -> None:
        first = operands[0]
        if not in_pieces:
            parts = pieces = self.parts(2 * first.size * ELEMENT_WORK)
        else:
            # Half a tile of each operand: smaller pieces lose more to the calls than they gain by the cache.
            count = ceil(first.nbytes / (self.tile_bytes // 2 or 1))
            parts = self.parts(CHAIN_WORK * first.size, at_most=count)
            pieces = max(1, ceil(count / parts)) * parts
        if pieces == 1:
            function(*operands)
        else:
            self._map_pieces(function, operands, pieces, parts)

    def _map_pieces(
        self, function: Callable[..., Result], operands: Sequence[Any], pieces: int, parts: int
    ) -> list[Result]:
        """Return what an elementwise function returns for each piece of its operands, contiguous arrays of one size."""
        flat = [operand.reshape(-1) if isinstance(operand, np.ndarray) else operand for operand in operands]
        slices = blocks(flat[0].size, pieces)

        def compute(part: slice) -> list[Result]:
            return [
                function(*(operand[piece] if isinstance(operand, np.ndarray) else operand for operand in flat))
                for piece in slices[part]
            ]

        return [result for results in self.map(compute, blocks(pieces, parts)) for result in results]

    def summed(self, function: Callable[..., Array], *operands: Any, axis: int | None = None) -> Array:
        first = operands[0]
        arrays = [operand for operand in operands if isinstance(operand, np.ndarray)]
        alike = all(array.shape == first.shape and array.flags.c_contiguous for array in arrays)
        # What the function returns is as large as an operand, and so may be its intermediate results.
        pieces = ceil(3 * first.nbytes / self.tile_bytes)
        if axis is not None or not alike or pieces < 2:
            return super().summed(function, *operands, axis=axis)
        sums = self._map_pieces(
            lambda *part: function(*part).sum(), operands, pieces, self.parts(2 * first.size * ELEMENT_WORK)
        )
        return np.asarray(sums, sums[0].dtype).sum()

    def transposed(self, x: Array) -> Array:
        N, M = x.shape
        y = self.empty((M, N), x.dtype)
        # Rows that lie whole KB apart share a few sets of the cache, if they are more than eight: 256 images of 3×32×32
        # take 2.2 ms as they are, and 0.5 ms when their rows are moved apart before.
        if N < _ROWS_APART or x.strides[0] % 1024:
            y[...] = x.T
            return y

        def copy(columns: slice) -> None:
            width = columns.stop - columns.start
            apart = self.scratch((N, width + _ROWS_APART), x.dtype, "apart")[:, :width]
            apart[...] = x[:, columns]
            y[columns] = apart.T

        self.map(copy, blocks(M, max(ceil(M / _COLUMNS_APART), self.parts(4 * x.size * ELEMENT_WORK))))
        return y

    def add_at(self, starts: Array, steps: Array, x: Array, index: Array, values: Array) -> None:
        places = self.scratch(index.shape, np.intp, "places")
        np.take(steps.astype(np.intp, copy=False), index, out=places, mode="clip")  # else NumPy copies to check them
        places += starts
        places += np.arange(len(x))[:, None] * x.shape[1]
        np.add.at(x.reshape(-1), places.reshape(-1), values.reshape(-1))

    # BLAS sums four times as fast as NumPy, and as accurately.
    def row_sums(self, x: Array, weights: Array | None = None) -> Array:
        columns = self._ones(x.shape[-1], x.dtype)[:, None] if weights is None else weights.swapaxes(-1, -2)
        with self.one_blas_thread():
            return np.matmul(x, columns)

    def column_sums(self, x: Array, weights: Array | None = None) -> Array:
        A, length, columns = x.shape
        if weights is None:
            weights = self._ones(length, x.dtype)[None, None]
        with self.one_blas_thread():
            # BLAS adds row by row: of many rows, sums of sums have smaller rounding errors.
            count = length // _ROWS
            if count < 2:
                return np.matmul(weights, x)
            whole = count * _ROWS
            parts = x[:, :whole].reshape(A, count, _ROWS, columns)
            of_parts = weights[..., :whole].reshape(len(weights), count, 1, _ROWS)
            return np.matmul(of_parts, parts).sum(axis=1) + np.matmul(weights[..., whole:], x[:, whole:])

    def column_means(self, x: Array) -> Array:
        A, length, columns = x.shape
        if columns == 1 or x.dtype.itemsize < 4:  # NumPy adds float16 up in float32
            return super().column_means(x)
        if length <= _FEW:
            total = x[:, :1] + x[:, 1:2] if length > 1 else x.copy()
            for row in range(2, length):
                total += x[:, row : row + 1]
            total /= length
            return total
        # Many short rows are merged: their sums are those of long ones, added up.
        most = max(1, self.long_row // max(1, columns))
        merged = gcd(length, 1 << most.bit_length() - 1) if 4 * most <= length else 1
        sums = self.column_sums(x.reshape(A, length // merged, merged * columns))
        return self.column_sums(sums.reshape(A, merged, columns)) / length

    def _ones(self, length: int, dtype: Any) -> Array:
        ones = self._kept_ones.get(dtype)
        if ones is None or len(ones) < length:
            ones = self._kept_ones[dtype] = np.ones(length, dtype)
        return ones[:length]

    def row_dots(self, x: Array, y: Array) -> Array:
        with self.one_blas_thread():
            return np.matmul(x[:, None, :], y[:, :, None])[:, 0]

    @contextmanager
    def long_rows(self) -> Iterator[None]:
        # NumPy copies an operand that is broadcast along rows shorter than its buffer of 8192 numbers, which doubles
        # the time. The setting belongs to the context, as `errstate` does, so pool threads have it, and others not.
        before = np.setbufsize(512)
        try:
            yield
        finally:
            np.setbufsize(before)

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
    register(_array_type, CPU)
