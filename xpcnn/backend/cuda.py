"""CUDA GPUs, through CuPy. No other file imports it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from .cublas import for_cublas
from .cuda_graph import GraphRecording, current_recording
from .cuda_kernels import Kernels
from .device import (
    Array,
    Collectives,
    Device,
    DeviceFailedError,
    DeviceUnavailableError,
    Function,
    Namespace,
    Pair,
    Shape,
    array_namespace,
    device_or_none,
    register,
)
from .layout import batch_first, batch_last
from .nccl import Nccl
from .recording import Recording, Result

_TF32 = 7  # CuPy's COMPUTE_TYPE_TF32


def _row_dots(x: Array, y: Array) -> Array:
    return array_namespace(x).sum(x * y, axis=1)


def _split_rows(x: Array) -> Array:
    """Return `x (rows, length)` as `(rows·parts, length / parts)`, with up to about 1024 rows and no short parts."""
    rows, length = x.shape
    parts = 1
    while rows * parts < 1024 and length // parts > 1 << 15 and length % (2 * parts) == 0:
        parts *= 2
    return x.reshape(rows * parts, -1)


def _join_rows(sums: Array, rows: int) -> Array:
    """Return the sums of whole rows, `(rows, 1)`, from the sums of their parts, `(rows·parts,)`."""
    return sums[:, None] if len(sums) == rows else sums.reshape(rows, -1).sum(axis=1, keepdims=True)


class CudaDevice(Device):
    """CuPy on one CUDA GPU."""

    adds_windows = True

    def __init__(self, xp: Namespace, index: int) -> None:
        self.name = f"cuda:{index}"
        self.xp = xp
        self._index = index
        self._fused: dict[Callable[..., Any], Any] = {}
        self._kernels = Kernels(xp)
        _, memory = xp.cuda.Device(index).mem_info
        # Few tiles: CuPy computes a product that goes to a part of an array in a temporary, and copies it.
        self.tile_bytes = memory // 64
        # GPUs of all sizes read their whole memory about 35 times a second; Python launches a kernel in 10 µs.
        self.launch_bytes = memory // 3000

    def __reduce__(self) -> tuple[Any, ...]:
        return cuda_device, (self._index,)

    @property
    def dataset_bytes(self) -> float:
        device = self.xp.cuda.Device(self._index)
        with device:
            free, _ = device.mem_info
            kept = self.xp.get_default_memory_pool().free_bytes()  # by CuPy, for new arrays
        return float(free + kept) / 2

    @property
    def description(self) -> str:
        properties = self.xp.cuda.runtime.getDeviceProperties(self._index)
        return f"{properties['name'].decode()}, CuPy {self.xp.__version__}"

    @property
    def identity(self) -> str:
        return str(self.xp.cuda.Device(self._index).pci_bus_id)

    def collectives(self, host: Collectives) -> Collectives:
        from cupy.cuda import nccl

        return Nccl(self.xp, nccl, host)

    def use(self) -> None:
        self.xp.cuda.Device(self._index).use()

    def asarray(self, x: Any, dtype: Any = None) -> Array:
        with self.xp.cuda.Device(self._index):
            return super().asarray(x, dtype)

    def empty(self, shape: Shape, dtype: Any) -> Array:
        with self.xp.cuda.Device(self._index):
            return super().empty(shape, dtype)

    def prefetch(self, batches: Iterable[Sequence[Any]]) -> Iterator[tuple[Any, ...]]:
        copies = _Copies(self)
        pending: tuple[Any, ...] | None = None
        for first, *others in batches:
            upcoming = (*copies.begin(first), others)
            if pending is not None:
                yield copies.end(*pending)
            pending = upcoming
        if pending is not None:
            yield copies.end(*pending)

    def fused(self, function: Function) -> Function:
        if function not in self._fused:
            # The prefix avoids a clash with CUDA's own functions, such as tanh.
            self._fused[function] = self.xp.fuse(kernel_name=f"xpcnn_{function.__name__}")(self._traceable(function))
        return self._fused[function]  # type: ignore[no-any-return]

    def summed(self, function: Callable[..., Array], *operands: Any, axis: int | None = None) -> Array:
        return self.fused(self._sum_of(function, axis))(*operands)

    @functools.cache  # noqa: B019 -- devices are kept for good
    def _sum_of(self, function: Callable[..., Array], axis: int | None) -> Callable[..., Array]:
        def total(*operands: Any) -> Array:
            return self.xp.sum(elements(*operands), axis=axis)

        elements = inspect.unwrap(function)
        total.__name__ = f"sum_of_{elements.__name__}"
        return total

    def _traceable(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function such that CuPy can trace it: with stand-ins for arrays, which are registered here."""

        def traced(*operands: Any) -> Any:
            for operand in operands:
                if hasattr(operand, "ndim") and device_or_none(operand) is None:
                    register(type(operand), self)
            return function(*operands)

        return traced

    # CuPy sums each row on one of the GPU's many processors, so few long rows would leave most of them idle.
    def row_sums(self, x: Array, weights: Array | None = None) -> Array:
        rows = (x if weights is None else x * weights).reshape(-1, x.shape[-1])
        return _join_rows(_split_rows(rows).sum(axis=1), len(rows)).reshape(*x.shape[:-1], 1)

    def row_dots(self, x: Array, y: Array) -> Array:
        return _join_rows(self.fused(_row_dots)(_split_rows(x), _split_rows(y)), len(x))

    def row_sums_and_dots(self, x: Array, y: Array) -> tuple[Array, Array]:
        both = self._kernels.sums_and_dots(_split_rows(x), _split_rows(y))
        sums, dots = _join_rows(both.reshape(-1), 2 * len(x)).reshape(2, -1, 1)
        return sums, dots

    def concatenate(self, arrays: Sequence[Array], out: Array) -> None:
        self._kernels.concatenate(arrays, out)

    def copy_windows(self, *operands: Any) -> bool:
        return self._kernels.copy_windows(*operands)

    def add_windows(
        self, columns: Array, first: Pair, stride: Pair, dilation: Pair, x: Array, *, to_zero: bool = False
    ) -> bool:
        self._kernels.add_windows(columns, first, stride, dilation, x, to_zero)
        return True

    def recorded(self, function: Callable[[], Result]) -> Recording[Result]:
        with self.xp.cuda.Device(self._index):
            return GraphRecording(self.xp, self._kernels, function)

    def host_numbers(self, numbers: Callable[[], Iterable[Any] | None], dtype: Any = np.float32) -> list[Any]:
        recording = current_recording()
        return super().host_numbers(numbers) if recording is None else recording.host_numbers(numbers, dtype)

    def matmul(self, a: Array, b: Array, out: Array) -> None:
        recording = current_recording()
        if recording is None:
            super().matmul(a, b, out)
        else:
            recording.matmul(a, b, out, tf32=self.tf32)

    def half_product(self, a: Array, b: Array, out: Array) -> None:
        # CuPy's own product of float16 is rounded to float16; cuBLAS can return the sums as they are.
        (M, K), N = a.shape[-2:], b.shape[-1]
        columns = out.strides[-1] == out.itemsize and out.strides[-2] >= N * out.itemsize
        if out.size != M * N or not columns or not K:  # several products, of groups or of few channels
            super().half_product(a, b, out)
            return
        # It counts along columns first, so what it sees of each array is its transpose: outᵀ = bᵀ @ aᵀ.
        (a, turn_a, step_a), (b, turn_b, step_b) = for_cublas(a.reshape(M, K)), for_cublas(b.reshape(K, N))
        one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
        cuda = self.xp.cuda
        half, single, cublas = cuda.runtime.CUDA_R_16F, cuda.runtime.CUDA_R_32F, cuda.cublas
        operands = one.ctypes.data, b.data.ptr, half, step_b, a.data.ptr, half, step_a
        result = zero.ctypes.data, out.data.ptr, single, out.strides[-2] // out.itemsize
        handle, kind = cuda.device.get_cublas_handle(), (cublas.CUBLAS_COMPUTE_32F, cublas.CUBLAS_GEMM_DEFAULT)
        cublas.gemmEx(handle, turn_b, turn_a, N, M, K, *operands, *result, *kind)

    def to_host(self, x: Array) -> np.ndarray[Any, Any]:
        return self.xp.asnumpy(x)  # type: ignore[no-any-return]

    def synchronize(self) -> None:
        self.xp.cuda.Device(self._index).synchronize()

    @property
    def tf32(self) -> bool:
        kind: int = self.xp._core.get_compute_type(np.float32)
        return kind == _TF32

    @contextmanager
    def allow_tf32(self) -> Iterator[None]:
        with self.xp.cuda.Device(self._index):
            before = self.xp._core.get_compute_type(np.float32)
            # On an older GPU, CuPy would only warn and compute in float32.
            if int(self.xp.cuda.Device().compute_capability) < 80:
                raise ValueError(f"TF32 was asked for, but {self.name} ({self.description}) does not have it")
            self.xp._core.set_compute_type(np.float32, _TF32)
        try:
            yield
        finally:
            self.xp._core.set_compute_type(np.float32, before)


@functools.cache
def cuda_device(index: int) -> CudaDevice:
    """Return GPU `index` after running a small product on it, as CuPy imports without cuBLAS or a driver.

    Raises:
        DeviceUnavailableError: if it does not answer; the message has the reason and what to install.
    """
    try:
        import cupy
    except ImportError as error:
        reason = f"cuda:{index} does not answer (CuPy cannot be imported: {_first_line(error)})"
        raise DeviceUnavailableError(f"{reason}. {_INSTALL}") from error
    try:
        count = cupy.cuda.runtime.getDeviceCount()
        if index >= count:
            raise DeviceUnavailableError(f"cuda:{index} was asked for, but CUDA sees {count} GPU(s)")
        with cupy.cuda.Device(index):
            ones = cupy.ones((8, 8), cupy.float32)
            if float((ones @ ones + 1).sum()) != 8 * 8 * 9:
                raise DeviceUnavailableError(f"cuda:{index} computes a small product wrongly")
    except DeviceUnavailableError:
        raise
    except Exception as error:  # CuPy raises its own types for a missing driver, cuBLAS or NVRTC
        raise DeviceUnavailableError(f"cuda:{index} does not answer ({_first_line(error)}). {_INSTALL}") from error
    device = CudaDevice(cupy, index)
    # Asking CuPy for an array's device is slow, and only needed if there are several.
    register(cupy.ndarray, device if count == 1 else _device_of)
    return device


def device_count() -> int:
    """Return the number of GPUs that CUDA sees; call it only after one has answered."""
    import cupy

    return int(cupy.cuda.runtime.getDeviceCount())


def _device_of(array: Array) -> Device:
    return cuda_device(array.device.id)


@contextmanager
def failures_named() -> Iterator[None]:
    """Raise the errors of CUDA's libraries in the block as `DeviceFailedError`, with one line as its message.

    A lack of memory stays the MemoryError that CuPy makes of it.
    """
    try:
        yield
    except Exception as error:
        # CuPy has a type for each library, and may not be installed: all of them are in this package.
        if type(error).__module__.partition(".")[0] != "cupy_backends":
            raise
        raise DeviceFailedError(f"the GPU failed: {_first_line(error)}") from error


register("cupy.ndarray", _device_of)  # by name: a user may make such arrays before this package imports CuPy

_INSTALL = 'To use an NVIDIA GPU: pip install "cupy-cuda13x[ctk]", or cupy-cuda12x, matching the driver.'


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


class _Copies:
    """Copies from the host to the GPU on a separate stream, through two pinned buffers that take turns."""

    def __init__(self, device: CudaDevice) -> None:
        self._device, self._cuda = device, device.xp.cuda
        self._stream = self._cuda.Stream(non_blocking=True)
        self._buffers: list[np.ndarray[Any, Any]] = [np.empty(0, np.uint8)] * 2
        self._copied: list[Any] = [None, None]  # events: the end of each buffer's last copy
        self._turn = 0

    def begin(self, x: Array) -> tuple[Array, Any]:
        """Start to copy `x`; return its copy, and the event at which it is complete."""
        if device_or_none(x) is self._device:
            return x, None
        x = batch_last(x)  # the layout in memory, so that nothing is transposed
        turn = self._turn = 1 - self._turn
        if self._copied[turn] is not None:
            self._copied[turn].synchronize()
        if self._buffers[turn].size < x.nbytes:
            self._buffers[turn] = np.frombuffer(self._cuda.alloc_pinned_memory(x.nbytes), np.uint8)
        staged = self._buffers[turn][: x.nbytes].view(x.dtype).reshape(x.shape)
        staged[...] = x
        copy = self._device.empty(x.shape, x.dtype)
        # Its memory may be reused from an array that kernels queued earlier still read.
        self._stream.wait_event(self._cuda.get_current_stream().record())
        copy.set(staged, self._stream)
        done = self._copied[turn] = self._stream.record()
        return batch_first(copy), done

    def end(self, x: Array, done: Any, others: Sequence[Any]) -> tuple[Any, ...]:
        """Let the kernels queued from now on wait for a copy; return the batch."""
        if done is not None:
            self._cuda.get_current_stream().wait_event(done)
        return x, *others
