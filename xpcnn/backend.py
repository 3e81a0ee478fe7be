"""Devices and their array modules: the only file that knows which processor an array lives on.

Everything above this file is written once against an array module `xp`, found from the array at hand with
`array_namespace(x)`. What may differ between processors without touching the mathematics (where memory comes from, how
work is spread, how large a tile is) is asked of the array's `Device`. The GPUs' is in `cuda.py`.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from math import ceil, inf, prod
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np

from .memory import MemoryPool
from .threads import Workers

Array: TypeAlias = Any  # numpy.ndarray or cupy.ndarray: CuPy publishes no types that would say so
Namespace: TypeAlias = Any
Shape: TypeAlias = tuple[int, ...]
Task = TypeVar("Task")
Result = TypeVar("Result")
Function = TypeVar("Function", bound=Callable[..., Any])


class DeviceUnavailableError(RuntimeError):
    """A device was asked for by name and does not answer; the message says why and how to install it."""


def _available_cores() -> int:
    # A container or a batch system may grant fewer cores than the machine has.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _ByName(type):
    """Makes `Device("cpu")` look a device up instead of building one."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return _find_device(*args, **kwargs) if cls is Device else super().__call__(*args, **kwargs)


class Device(metaclass=_ByName):
    """One processor and the array module that computes on it.

    Args:
        name: `"cpu"`, `"cuda"` (the first GPU), `"cuda:1"`, or `"auto"`: the first GPU that answers, else the CPU, with
            one line on stderr saying why. A `Device` is returned as it is. Where there are several GPUs, the one asked
            for is in use from then on: see `use`.

    Raises:
        DeviceUnavailableError: if a GPU is named that does not answer.
        ValueError: if the name is none of these.
    """

    name: str
    xp: Namespace
    tile_bytes = 256 << 20  # columns lowered at a time
    launch_bytes = 16 << 20  # how many bytes are written in the time that it takes to start an operation
    small_product = 0  # up to how many multiplications a product of matrices is faster than as a part of a larger one
    winograd_channels: float = inf  # from how many channels on Winograd's convolution is the faster one
    task_count = 1  # how many shares the work of one layer is cut into; fixed, as results depend on it

    if TYPE_CHECKING:

        def __init__(self, name: str | Device = "auto") -> None: ...

    def __repr__(self) -> str:
        return f"Device({self.name!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Device, (self.name,)

    def __deepcopy__(self, memo: object) -> Device:
        return self

    def use(self) -> None:
        """Let the calling thread compute on this GPU: CuPy works on one at a time, and refuses arrays of another."""

    def asarray(self, x: Any, dtype: Any = None) -> Array:
        """Return `x` as an array on this device, copied only if it lies elsewhere or has another dtype."""
        if device_or_none(x) not in (None, self):
            x = to_host(x)
        return self.xp.asarray(x, dtype=dtype)

    def prefetch(self, batches: Iterable[Sequence[Any]]) -> Iterator[tuple[Any, ...]]:
        """Yield the batches with their first array moved to this device; on a GPU, while the one before is at work.

        Args:
            batches: arrays `(N, ...)` of the host, or of this device already, each with what else belongs to it.
        """
        return ((self.asarray(first), *others) for first, *others in batches)

    @property
    def description(self) -> str:
        """What computes here, for a person to read."""
        raise NotImplementedError

    def to_host(self, x: Array) -> np.ndarray[Any, Any]:
        """Return an array of this device as a NumPy array."""
        raise NotImplementedError

    def synchronize(self) -> None:
        """Wait until all work given to this device is done."""

    def empty(self, shape: Shape, dtype: Any) -> Array:
        """Return an uninitialised C-contiguous array for a result."""
        return self.xp.empty(shape, dtype)

    def scratch(self, shape: Shape, dtype: Any, slot: str) -> Array:
        """Return uninitialised working memory, valid until the same thread asks for the same slot again."""
        return self.xp.empty(shape, dtype)

    def map(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> list[Result]:
        """Return `[function(task) for task in tasks]`; the calls may run at the same time."""
        return [function(task) for task in tasks]

    def fused(self, function: Function) -> Function:
        """Return what computes a `chain` here."""
        return function

    def map_elements(self, function: Callable[..., None], *operands: Any, in_pieces: bool = False) -> None:
        """Call `function` on matching parts of contiguous arrays of one size, for elementwise work in place.

        Args:
            operands: arrays, at least the first of them; what is no array is passed on as it is.
            in_pieces: whether to take short parts, so that the function's intermediate results stay in cache.
        """
        function(*operands)

    def overlapping(self) -> AbstractContextManager[None]:
        """Let `background` tasks run beside what the block does, with BLAS held; all are done when it ends."""
        return nullcontext()

    def background(self, task: Callable[[], Result], multiplications: int) -> Callable[[], Result]:
        """Begin a task that nothing waits for yet, or do it at once; return a function that gives its result.

        Args:
            multiplications: how many of them the task takes, about.
        """
        result = task()
        return lambda: result

    def row_sums(self, x: Array) -> Array:
        """Return the sum of each row of `x (rows, length)`, as `(rows, 1)`."""
        return x.sum(axis=1, keepdims=True)

    def row_dots(self, x: Array, y: Array) -> Array:
        """Return the sum of the products of each two rows of `x` and `y (rows, length)`, as `(rows, 1)`."""
        products = self.scratch(x.shape, x.dtype, "dots")
        self.xp.multiply(x, y, out=products)
        return products.sum(axis=1, keepdims=True)

    @property
    def tf32(self) -> bool:
        """Whether float32 products are computed with TF32's 11 significant bits; no, unless a GPU is told to."""
        return False

    @contextmanager
    def allow_tf32(self) -> Iterator[None]:
        """Let float32 products inside the block run in TF32, on a GPU that has it (compute capability 8.0 and up).

        About eight times as fast as float32 on paper, and a thousand times as coarse. CuPy keeps this one choice for
        the whole process; the environment variable `CUPY_TF32=1` makes it at the start.

        Raises:
            ValueError: if the device has no TF32.
        """
        raise ValueError(f"TF32 was asked for, but {self.name} does not have it")
        yield

    def one_blas_thread(self) -> AbstractContextManager[None]:
        """Hold matrix products to the calling thread, so that their bits do not depend on the number of cores."""
        return nullcontext()


class _Cpu(Device):
    """NumPy, with the work of a layer spread over a pool of threads."""

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

    @property
    def threads(self) -> int:
        """How many threads share the work, at first the number of cores this process may use."""
        return self._workers.threads

    @threads.setter
    def threads(self, count: int) -> None:
        self._workers.threads = count

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


CPU = _Cpu()
_DEVICE_OF_TYPE: dict[type, Callable[[Any], Device]] = {
    np.ndarray: lambda x: CPU,
    np.generic: lambda x: CPU,  # what NumPy's reductions return where CuPy's return 0-d arrays
}


def _find_device(name: str | Device = "auto") -> Device:
    device = name if isinstance(name, Device) else _device_named(name)
    device.use()
    return device


def _device_named(name: str) -> Device:
    if name == "auto":
        return _first_device()
    if name == "cpu":
        return CPU
    kind, _, index = str(name).partition(":")
    if kind == "cuda" and (index.isdigit() or name == "cuda"):
        return _cuda_device(int(index or 0))
    raise ValueError(f'unknown device {name!r}: expected "cpu", "cuda", "cuda:<number>" or "auto"')


def register(array_type: type, device_of_array: Callable[[Any], Device]) -> None:
    """Make a further array type known, such as the make-believe device of the tests."""
    _DEVICE_OF_TYPE[array_type] = device_of_array


def device_or_none(x: object) -> Device | None:
    """Return the device an array lies on, or None if `x` is not an array."""
    find = _DEVICE_OF_TYPE.get(type(x))
    if find is not None:
        return find(x)
    for array_type in type(x).__mro__:
        if array_type in _DEVICE_OF_TYPE:
            return _DEVICE_OF_TYPE[array_type](x)
    # Someone else may have made a CuPy array before we had a reason to import CuPy.
    cupy = sys.modules.get("cupy")
    if cupy is not None and cupy.ndarray not in _DEVICE_OF_TYPE and isinstance(x, cupy.ndarray):
        register(cupy.ndarray, lambda array: _cuda_device(array.device.id))
        return device_or_none(x)
    return None


def device_of(x: Array) -> Device:
    """Return the device an array lies on.

    Raises:
        TypeError: if `x` is not an array.
    """
    device = device_or_none(x)
    if device is None:
        raise TypeError(f"expected an array, got {type(x).__name__}")
    return device


def array_namespace(x: Array) -> Namespace:
    """Return the array module that computes on `x`: the one way to ask."""
    return device_of(x).xp


def chain(function: Function) -> Function:
    """Make a function of elementwise operations a single kernel on a GPU; elsewhere it is called as it is.

    A GPU's time for such operations is that of reading and writing their operands, and of starting each: five
    operations in one kernel take little more than one.

    Args:
        function: of a module, not made anew for each call. Called with arrays, the first operand among them, that
            broadcast to one shape, and with numbers or None. It may compute with operators other than `abs`, with
            elementwise functions of `array_namespace(x)`, with dtypes and `x[...] = `; not with shapes, parts of
            arrays or their values. What it writes to has the full shape. It returns an array, a tuple of them, or None.
    """

    @functools.wraps(function)
    def call(*operands: Any, **named: Any) -> Any:
        if named:  # CuPy fuses functions of positional arguments
            operands = inspect.signature(function).bind(*operands, **named).args
        return device_of(operands[0]).fused(function)(*operands)

    return call  # type: ignore[return-value]


def to_host(x: Array) -> np.ndarray[Any, Any]:
    """Return any device's array as a NumPy array; waits for the device, so only where a person is shown a number."""
    return device_of(x).to_host(x)


def batch_last(x: Array) -> Array:
    """View `x (N, ...)` as contiguous `(..., N)`, the order in which activations lie in memory.

    Free for everything the layers return; memory in another order, such as plain NCHW, is copied once.
    """
    last = x.transpose(*range(1, x.ndim), 0)
    return last if last.flags.c_contiguous else array_namespace(x).ascontiguousarray(last)


def batch_first(x: Array) -> Array:
    """View `x (..., N)` as `(N, ...)`, the shape that callers see."""
    return x.transpose(x.ndim - 1, *range(x.ndim - 1))


def blocks(length: int, count: int) -> list[slice]:
    """Cut `range(length)` into `count` parts as even as possible, or fewer if it is shorter than that."""
    count = min(length, count)
    return [slice(length * i // count, length * (i + 1) // count) for i in range(count)]


def available_devices() -> tuple[list[Device], str]:
    """Return the devices that answer, the CPU first, and why no (further) GPU is among them."""
    devices: list[Device] = [CPU]
    try:
        devices.append(_cuda_device(0))
        count = devices[-1].xp.cuda.runtime.getDeviceCount()
        devices += [_cuda_device(index) for index in range(1, count)]
    except DeviceUnavailableError as error:
        return devices, str(error)
    return devices, ""


@functools.cache
def _first_device() -> Device:
    try:
        return _cuda_device(0)
    except DeviceUnavailableError as error:
        print(f"xpcnn: using the CPU: {error}", file=sys.stderr)
        return CPU


@functools.cache
def _cuda_device(index: int) -> Device:
    """Return GPU `index` after a small product ran on it: an import alone proves neither cuBLAS nor a driver."""
    try:
        cupy = importlib.import_module("cupy")
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
    from .cuda import CudaDevice  # which needs what is above

    device = CudaDevice(cupy, index)
    # To ask an array for its device takes a while, and is of use only where there are several.
    register(cupy.ndarray, lambda array: device if count == 1 else _cuda_device(array.device.id))
    return device


_INSTALL = 'To use an NVIDIA GPU: pip install "cupy-cuda13x[ctk]", or cupy-cuda12x, matching the driver.'


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
