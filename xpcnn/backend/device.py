"""What a device is, and which device an array lies on.

Everything above the backend is written once against an array module `xp`, found from the array at hand with
`array_namespace(x)`. What may differ between processors without touching the mathematics (where memory comes from, how
work is split, how large a tile is) is asked of the array's `Device`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from math import inf
from typing import Any, TypeAlias, TypeVar

import numpy as np

Array: TypeAlias = Any  # numpy.ndarray or cupy.ndarray: CuPy publishes no types that would say so
HostArray: TypeAlias = np.ndarray[Any, Any]
Namespace: TypeAlias = Any
Shape: TypeAlias = tuple[int, ...]
Task = TypeVar("Task")
Result = TypeVar("Result")
ELEMENT_WORK = 16  # multiply-adds that take as long as reading or writing one number
Function = TypeVar("Function", bound=Callable[..., Any])


class DeviceUnavailableError(RuntimeError):
    """A device was asked for by name and does not answer; the message says why and how to install it."""


class Device:
    """One processor and the array module that computes on it; found by name with `xpcnn.device`.

    There is one object for each device, also after `copy` and `pickle`.

    Attributes:
        name: `"cpu"`, `"cuda:0"`, …
        xp: the array module: NumPy or CuPy.
        tile_bytes: size of the columns that a convolution lowers at a time.
        launch_bytes: bytes the device can write during one kernel launch.
        small_product: largest m·n·k served by BLAS's small-matrix kernels; 0 if there are none.
        winograd_channels: channels from which on Winograd's convolution is faster.
    """

    name: str
    xp: Namespace
    tile_bytes = 256 << 20
    launch_bytes = 16 << 20
    small_product = 0
    winograd_channels: float = inf

    def __repr__(self) -> str:
        return f"Device({self.name!r})"

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
        """Yield the batches with their first array on this device; a GPU copies the next one while one trains.

        Args:
            batches: tuples that begin with an array `(N, ...)`, on the host or on this device already.
        """
        return ((self.asarray(first), *others) for first, *others in batches)

    @property
    def on_host(self) -> bool:
        """Whether its arrays lie in the host's memory, so that reading a value waits for nothing."""
        return False

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

    def parts(self, work: int, at_most: int | None = None) -> int:
        """Return into how many parts to cut some work, for several threads to share: the one question for scheduling.

        The answer follows from the work alone, never from the number of threads, as sums over parts depend on it.

        Args:
            work: in multiply-adds; an element that is copied or computed by itself counts as `ELEMENT_WORK` of them.
            at_most: the largest answer wanted, such as one that leaves each part enough rows.
        """
        return 1

    def map(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> list[Result]:
        """Return `[function(task) for task in tasks]`; the calls may run at the same time."""
        return [function(task) for task in tasks]

    def fused(self, function: Function) -> Function:
        """Return what computes a `chain` here."""
        return function

    def map_elements(self, function: Callable[..., None], *operands: Any, in_pieces: bool = False) -> None:
        """Call `function` on matching parts of contiguous arrays of one size, for elementwise work in place.

        Args:
            operands: the first one an array; non-arrays are passed through.
            in_pieces: take short parts, so that the function's intermediate results stay in cache.
        """
        function(*operands)

    def overlapping(self) -> AbstractContextManager[None]:
        """Let `background` tasks run concurrently with the block; BLAS uses one thread, and all are done at its end."""
        return nullcontext()

    def background(self, task: Callable[[], Result], work: int) -> Callable[[], Result]:
        """Start a task whose result is needed later, or run it now; return a function that gives its result.

        Args:
            work: see `parts`.
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
        """Run matrix products on the calling thread only, so that their bits do not depend on the number of cores."""
        return nullcontext()


def blocks(length: int, count: int) -> list[slice]:
    """Cut `range(length)` into `count` parts as even as possible, or fewer if it is shorter than that."""
    count = min(length, count)
    return [slice(length * i // count, length * (i + 1) // count) for i in range(count)]


DeviceOfArray: TypeAlias = Callable[[Any], Device]
_DEVICE_OF_TYPE: dict[type, DeviceOfArray] = {}
_DEVICE_OF_NAME: dict[str, DeviceOfArray] = {}


def register(array_type: type | str, device_of_array: DeviceOfArray) -> None:
    """Make an array type known.

    Args:
        array_type: the class, or its name with its module, `"cupy.ndarray"`, where importing that takes long.
        device_of_array: returns the device of such an array.
    """
    if isinstance(array_type, str):
        _DEVICE_OF_NAME[array_type] = device_of_array
    else:
        _DEVICE_OF_TYPE[array_type] = device_of_array


def device_or_none(x: object) -> Device | None:
    """Return the device an array lies on, or None if `x` is not an array."""
    find = _DEVICE_OF_TYPE.get(type(x))
    if find is not None:
        return find(x)
    for array_type in type(x).__mro__:
        named = _DEVICE_OF_NAME.get(f"{array_type.__module__}.{array_type.__qualname__}")
        find = _DEVICE_OF_TYPE.get(array_type, named)
        if find is not None:
            return find(x)
    return None


def device_of(x: Array) -> Device:
    """Return the device an array lies on.

    Raises:
        TypeError: if `x` is not an array.
    """
    find = _DEVICE_OF_TYPE.get(type(x))  # asked some sixty times in a training step
    device = device_or_none(x) if find is None else find(x)
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
