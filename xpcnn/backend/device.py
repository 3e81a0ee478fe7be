"""The base class of devices, and the device of an array.

Code outside the backend is written once for an array module `xp` (NumPy or CuPy), found with `array_namespace(x)`.
What differs between processors apart from the mathematics (where memory comes from, how work is split, how large a tile
is) is asked of the array's `Device`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from math import inf, isqrt
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np

from .recording import Recording, Result

Array: TypeAlias = Any  # numpy.ndarray or cupy.ndarray; CuPy has no type annotations
HostArray: TypeAlias = np.ndarray[Any, Any]
Namespace: TypeAlias = Any
Shape: TypeAlias = tuple[int, ...]
Pair: TypeAlias = tuple[int, int]  # along rows and columns
Task = TypeVar("Task")
ELEMENT_WORK = 16  # how many multiply-adds take as long as reading or writing one number
CHAIN_WORK = 6 * ELEMENT_WORK  # … as an elementwise function of several steps takes for one number, at least
Function = TypeVar("Function", bound=Callable[..., Any])


class DeviceUnavailableError(RuntimeError):
    """A device that was named does not answer; the message says why, and what to install."""


class DeviceFailedError(RuntimeError):
    """A device stopped working while it computed; the message is what its driver says."""


class Collectives(Protocol):
    """What a group of processes does with the contiguous arrays of a device; each process calls the same in turn."""

    rank: int
    size: int

    def sum(self, x: Array) -> None:
        """Replace an array by its sum over the processes."""
        ...

    def gather(self, x: Array, gathered: Array) -> None:
        """Write the arrays of all processes to `gathered (size, *x.shape)`."""
        ...

    def broadcast(self, x: Array) -> None:
        """Replace an array by that of process 0."""
        ...


class Device:
    """A processor and the array module that computes on it; found by name with `xpcnn.device`.

    There is one object per device, also after `copy` and `pickle`.

    Attributes:
        name: `"cpu"`, `"cuda:0"`, …
        xp: the array module: NumPy or CuPy.
        tile_bytes: size of the column matrix that a convolution makes at a time.
        launch_bytes: bytes the device can write during one kernel launch.
        chunk_bytes: size of the largest activation of the images that are evaluated at a time, or None to evaluate
            whole batches.
        small_product: largest m·n·k served by BLAS's small-matrix kernels; 0 if there are none.
        winograd_channels: the fewest channels for which convolution is by Winograd's algorithm. May be set to
            `math.inf` for never: see `functional.conv2d_forward`.
        winograd_few: the fewest channels for which it is where the layer is large: see `functional/winograd.py`.
        row_channels: the most channels of an input for which convolution is row by row: see `functional/by_rows.py`.
        adds_windows: whether `add_windows` can do its work.
        adds_products: whether `einsum` adds up products of elements without storing them, in one pass.
        long_row: the shortest rows over which elementwise operations are as fast as over whole arrays, if one operand
            is broadcast.
    """

    name: str
    xp: Namespace
    tile_bytes = 256 << 20
    launch_bytes = 16 << 20
    chunk_bytes: int | None = None
    small_product = 0
    winograd_channels: float = inf
    winograd_few: float = inf
    row_channels = 0
    adds_windows = False
    adds_products = False
    long_row = 1

    def __repr__(self) -> str:
        return f"Device({self.name!r})"

    def __deepcopy__(self, memo: object) -> Device:
        return self

    def use(self) -> None:
        """Make this GPU the calling thread's current one: CuPy computes on that, and refuses arrays of another."""

    def asarray(self, x: Any, dtype: Any = None) -> Array:
        """Return `x` as an array on this device, copied only if it is elsewhere or of another dtype.

        Args:
            x: an array of any device, or what NumPy makes an array of.
            dtype: None for that of `x`.
        """
        if device_or_none(x) not in (None, self):
            x = to_host(x)
        return self.xp.asarray(x, dtype=dtype)

    def prefetch(self, batches: Iterable[Sequence[Any]]) -> Iterator[tuple[Any, ...]]:
        """Yield batches with their first array on this device; a GPU copies the next batch while this one is used.

        Args:
            batches: tuples whose first item is an array `(N, ...)`, on the host or already on this device.
        """
        return ((self.asarray(first), *others) for first, *others in batches)

    @property
    def on_host(self) -> bool:
        """Whether its arrays are in the host's memory, where reading a value does not wait for a device."""
        return False

    @property
    def identity(self) -> str:
        """What tells this GPU from all others of the machine; empty for a device that processes share."""
        return ""

    def collectives(self, host: Collectives) -> Collectives:
        """Return the operations of a group on arrays of this device, from those on the host's arrays."""
        return host

    @property
    def dataset_bytes(self) -> float:
        """How many bytes of images can be kept on this device now and leave room for training; `inf` on the host."""
        return inf

    @property
    def description(self) -> str:
        """The processor or library that computes here, for people to read."""
        raise NotImplementedError

    def to_host(self, x: Array) -> np.ndarray[Any, Any]:
        """Return an array of this device as a NumPy array."""
        raise NotImplementedError

    def synchronize(self) -> None:
        """Wait until all work queued on this device is done."""

    def empty(self, shape: Shape, dtype: Any) -> Array:
        """Return an uninitialised C-contiguous array, for a result."""
        return self.xp.empty(shape, dtype)

    def protect(self, x: Array) -> None:
        """Make an array read-only, if the device can: later changes in place through this object raise ValueError."""

    def scratch(self, shape: Shape, dtype: Any, slot: str) -> Array:
        """Return uninitialised scratch memory, valid until the same thread asks for the same slot again."""
        return self.xp.empty(shape, dtype)

    def strided(self, x: Array, shape: Shape, strides: Shape) -> Array:
        """Return a view of a contiguous array with another shape and with these strides, in bytes."""
        return self.xp.lib.stride_tricks.as_strided(x, shape, strides)

    def matmul(self, a: Array, b: Array, out: Array) -> None:
        """Write `a @ b` to `out`; in mixed precision if one operand is float16 and the other is not.

        In mixed precision both operands are rounded to float16, and their products are summed in float32.

        Args:
            a, b: as in NumPy's `matmul`, with two axes or more.
            out: of their higher dtype.
        """
        if a.dtype == b.dtype:
            self.xp.matmul(a, b, out=out)
        else:
            with np.errstate(over="ignore", invalid="ignore"):  # the step is skipped: see `optim.GradScaler`
                self.half_product(rounded(a, np.float16), rounded(b, np.float16), out)

    def half_product(self, a: Array, b: Array, out: Array) -> None:
        """Write the product of float16 operands to the float32 array `out`, with sums in float32."""
        # Products of two float16 numbers are exact in float32.
        self.xp.matmul(a.astype(np.float32), b.astype(np.float32), out=out)

    def concatenate(self, arrays: Sequence[Array], out: Array) -> None:
        """Write arrays of one axis and dtype, one after the other, to the contiguous array `out`."""
        self.xp.concatenate(arrays, out=out)

    def copy_windows(self, x: Array, first: tuple[int, int, int], stride: Pair, dilation: Pair, columns: Array) -> bool:
        """Copy windows of padded images in one operation, if this device can; return whether it did.

        Args:
            x: contiguous, `(C, H, W, N)`.
            first: row and column of the first window's first element, negative in the padding, and the first image.
            stride, dilation: along rows and columns.
            columns: `(C, KH, KW, rows, cols, images)`, contiguous: element (kh, kw) of each window; 0 in the padding.
        """
        return False

    def add_windows(
        self, columns: Array, first: Pair, stride: Pair, dilation: Pair, x: Array, *, to_zero: bool = False
    ) -> bool:
        """Add `columns` to the pixels that `copy_windows` would copy to them, in one operation, if this device can.

        Return whether it did.

        Args:
            columns, first, stride, dilation: those of `copy_windows`.
            x: `(C, H, W, images)`.
            to_zero: whether `x` is taken to be 0 before, whatever it holds.
        """
        return False

    def einsum(self, subscripts: str, *operands: Array, out: Array) -> None:
        """Write what the array module's `einsum` returns to `out`."""
        out[...] = self.xp.einsum(subscripts, *operands)

    def pools_on_planes(self, images: int, pixels: int, *, overlapping: bool) -> bool:
        """Return whether pooling copies images to planes first, for contiguous inner loops: see `functional/planes.py`.

        A GPU has no inner loops, and each copy is one more kernel launch.

        Args:
            images: in the batch: the length of the inner loops on the images as they are.
            pixels: of all images and channels.
            overlapping: whether a pixel may be in several windows.
        """
        return False

    def transposed(self, x: Array) -> Array:
        """Return contiguous `x (N, M)` as a contiguous array `(M, N)`."""
        return self.xp.ascontiguousarray(x.T)

    def as_runs(self, x: Array) -> Array:
        """Return a view of an array, contiguous along its last axis, that this device copies fast to another such."""
        return x

    def parts(self, work: int, at_most: int | None = None) -> int:
        """Return the number of parts to split some work into, so that several threads can compute them.

        It depends on the work alone, never on the number of threads, so that sums over parts have the same bits.

        Args:
            work: in multiply-adds; reading or writing one number counts as `ELEMENT_WORK` of them.
            at_most: the largest number wanted, such as one that leaves enough rows for each part.
        """
        return 1

    def map(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> list[Result]:
        """Return `[function(task) for task in tasks]`; the calls may run in parallel."""
        return [function(task) for task in tasks]

    def fused(self, function: Function) -> Function:
        """Return what computes a `chain` on this device: one kernel on a GPU, else the function itself."""
        return function

    def summed(self, function: Callable[..., Array], *operands: Any, axis: int | None = None) -> Array:
        """Return the sum of the array that a `chain` returns, over an axis or of all; one kernel on a GPU.

        Args:
            function: it must not write to its operands, which CuPy's kernel would not do.
        """
        return function(*operands).sum(axis=axis)

    def map_elements(self, function: Callable[..., None], *operands: Any, in_pieces: bool = False) -> None:
        """Call an elementwise `function`, which writes to some of its operands, on matching parts of all of them.

        Args:
            operands: contiguous arrays of the same size, the first operand among them, whose parts may be flattened to
                one axis; non-arrays are passed through.
            in_pieces: use small parts, so that the function's intermediate results stay in cache.
        """
        function(*operands)

    def recorded(self, function: Callable[[], Result]) -> Recording[Result]:
        """Return the operations of a function, to run again and again; a GPU records them as a CUDA graph.

        Args:
            function: without arguments: it reads its inputs from the same arrays each time, which the caller fills, and
                keeps what it changes in the same arrays. On a GPU it is called twice: by then it may allocate nothing
                for later calls, and must not wait for the GPU or copy from or to the host. What it does on the host is
                not repeated, except in `host_numbers`.
        """
        return Recording(function)

    def host_numbers(self, numbers: Callable[[], Iterable[Any] | None], dtype: Any = np.float32) -> list[Any]:
        """Return the numbers that a function returns, such as a learning rate that differs from step to step.

        In operations that are `recorded` the function is called in each run, and its numbers, other than None, are
        arrays of the device, `(1,)`. So it is the place for all that a step does on the host, such as counting.

        Args:
            numbers: returns as many each time, None in the same places; or nothing, if it only counts.
            dtype: of the arrays, at most 8 bytes.
        """
        return list(numbers() or ())

    def overlapping(self) -> AbstractContextManager[None]:
        """Run `background` tasks concurrently with the block, with one BLAS thread; at its end all of them are done."""
        return nullcontext()

    def background(self, task: Callable[[], Result], work: int) -> Callable[[], Result]:
        """Start a task whose result is needed later, or run it now; return a function that gives its result.

        Args:
            work: see `parts`.
        """
        result = task()
        return lambda: result

    def add_at(self, starts: Array, steps: Array, x: Array, index: Array, values: Array) -> None:
        """Add each of `values (rows, count)` to its place in `x (rows, length)`, one after the other; on the host only.

        Args:
            starts: `(count,)`, and
            steps: `(kinds,)`: the place in the row is `starts + steps[index]`.
            index: `(rows, count)`.
        """
        raise NotImplementedError(f"{self.name} adds many values at once")

    def row_sums(self, x: Array, weights: Array | None = None) -> Array:
        """Return the sum of each row of `x (..., rows, length)`, as `(..., rows, 1)`.

        Args:
            weights: what the numbers of each row are multiplied by, `(..., 1, length)`; None for 1.
        """
        return (x if weights is None else x * weights).sum(axis=-1, keepdims=True)

    def column_sums(self, x: Array, weights: Array | None = None) -> Array:
        """Return the sum of each column of `x (A, length, columns)`, as `(A, 1, columns)`.

        Args:
            weights: what the numbers of each column are multiplied by, `(A or 1, 1, length)`; None for 1.
        """
        if weights is not None:
            x = x * weights.transpose(0, 2, 1)
        # Sums of sums have smaller rounding errors, and on a GPU more of them are computed in parallel.
        A, length, columns = x.shape
        root = isqrt(length)
        rows = next((rows for rows in range(root, root // 2, -1) if length % rows == 0), root)
        whole = length - length % rows
        total = x[:, :whole].reshape(A, rows, whole // rows, columns).sum(axis=2).sum(axis=1, keepdims=True)
        return total + x[:, whole:].sum(axis=1, keepdims=True) if whole < length else total

    def column_means(self, x: Array) -> Array:
        """Return the mean of each column of `x (A, length, columns)`, as `(A, 1, columns)`."""
        return x.mean(axis=1, keepdims=True)

    def row_dots(self, x: Array, y: Array) -> Array:
        """Return the dot product of each row of `x (rows, length)` with the same row of `y`, as `(rows, 1)`."""
        products = self.scratch(x.shape, x.dtype, "dots")
        self.xp.multiply(x, y, out=products)
        return products.sum(axis=1, keepdims=True)

    def row_sums_and_dots(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Return what `row_sums(x)` and `row_dots(x, y)` do, of `x` and `y (rows, length)`."""
        return self.row_sums(x), self.row_dots(x, y)

    def long_rows(self) -> AbstractContextManager[None]:
        """Make elementwise operations in the block as fast as they can be where rows of `long_row` are broadcast."""
        return nullcontext()

    @property
    def tf32(self) -> bool:
        """Whether float32 products are computed in TF32, with 11 significant bits; False unless allowed."""
        return False

    @contextmanager
    def allow_tf32(self) -> Iterator[None]:
        """Compute float32 products inside the block in TF32, on a GPU that has it (compute capability 8.0 or higher).

        Nominally eight times as fast as float32, with rounding errors a thousand times as large. CuPy has one setting
        for the whole process; the environment variable `CUPY_TF32=1` sets it from the start.

        Raises:
            ValueError: if the device has no TF32.
        """
        raise ValueError(f"TF32 was asked for, but {self.name} does not have it")
        yield

    def one_blas_thread(self) -> AbstractContextManager[None]:
        """Run matrix products in the block on the calling thread only: their bits do not depend on the cores."""
        return nullcontext()


def blocks(length: int, count: int) -> list[slice]:
    """Split `range(length)` into `count` slices of nearly equal length, or into `length` slices if that is fewer."""
    count = min(length, count)
    return [slice(length * i // count, length * (i + 1) // count) for i in range(count)]


def rounded(x: Array, dtype: Any) -> Array:
    """Return `x` in a dtype, copied only if it has another. What is too large for it becomes infinite, silently."""
    if x.dtype == dtype:
        return x
    with np.errstate(over="ignore"):
        return x.astype(dtype)


DeviceOfArray: TypeAlias = Callable[[Any], Device]
_DEVICE_OF_ALL: dict[type | str, Device] = {}  # of types whose arrays are all on one device
_DEVICE_OF_TYPE: dict[type, DeviceOfArray] = {}
_DEVICE_OF_NAME: dict[str, DeviceOfArray] = {}


def register(array_type: type | str, device: Device | DeviceOfArray) -> None:
    """Register an array type, so that `device_of` knows it.

    Args:
        array_type: the class, or its qualified name such as `"cupy.ndarray"`, if importing it should be avoided.
        device: the device of all such arrays, or a function that returns the device of one. By name, a function.
    """
    if isinstance(device, Device):
        _DEVICE_OF_ALL[array_type] = device
    elif isinstance(array_type, str):
        _DEVICE_OF_NAME[array_type] = device
    else:
        _DEVICE_OF_TYPE[array_type] = device


def device_or_none(x: object) -> Device | None:
    """Return the device of an array, or None if `x` is not an array."""
    device = _DEVICE_OF_ALL.get(type(x))
    if device is not None:
        return device
    for array_type in type(x).__mro__:
        if array_type in _DEVICE_OF_ALL:
            return _DEVICE_OF_ALL.setdefault(type(x), _DEVICE_OF_ALL[array_type])
        named = _DEVICE_OF_NAME.get(f"{array_type.__module__}.{array_type.__qualname__}")
        find = _DEVICE_OF_TYPE.get(array_type, named)
        if find is not None:
            return find(x)
    return None


def device_of(x: Array) -> Device:
    """Return the device of an array.

    Raises:
        TypeError: if `x` is not an array.
    """
    device = _DEVICE_OF_ALL.get(type(x)) or device_or_none(x)  # asked some sixty times in a training step
    if device is None:
        raise TypeError(f"expected an array, got {type(x).__name__}")
    return device


def array_namespace(x: Array) -> Namespace:
    """Return the array module of `x`, NumPy or CuPy.

    Raises:
        TypeError: if `x` is not an array.
    """
    return device_of(x).xp


def chain(function: Function) -> Function:
    """Fuse a function of elementwise operations into one kernel on a GPU; on the CPU it is called unchanged.

    Elementwise kernels spend their time on launches and on reading and writing memory, so five operations in one kernel
    take little longer than one.

    Args:
        function: defined once, at module level. It is called with arrays (the first operand is one) that broadcast to
            one shape, and with numbers or None. It may use operators other than `abs`, elementwise functions of
            `array_namespace(x)`, dtypes, and `x[...] = `; but no shapes, parts of arrays or values of elements. Arrays
            that it writes to have the full shape. It returns an array, a tuple of arrays, or None.
    """

    @functools.wraps(function)
    def call(*operands: Any, **named: Any) -> Any:
        if named:  # CuPy fuses functions of positional arguments
            operands = inspect.signature(function).bind(*operands, **named).args
        return device_of(operands[0]).fused(function)(*operands)

    return call  # type: ignore[return-value]


def to_host(x: Array) -> np.ndarray[Any, Any]:
    """Return an array of any device as a NumPy array. This waits for the device, so avoid it inside a training step."""
    return device_of(x).to_host(x)
