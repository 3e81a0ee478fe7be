"""The make-believe device: NumPy dressed as CuPy, refusing whatever a GPU would refuse or quietly get wrong.

`StrictArray` holds a NumPy array that nothing reaches by accident. Code that runs on it has kept host and device apart,
called only functions that NumPy and CuPy both have, with arguments both accept, and relied on nothing that differs:

- NumPy functions and operands, implicit conversions and iteration raise. CuPy answers some of them (`np.sum(x)`, lists
  as indices), which is how a leak survives a test on a real GPU.
- Reductions give 0-d arrays. Reading a value on the host works as in CuPy, but is counted: see `count_host_reads`.
- What is undefined, or wraps around where NumPy raises, is poisoned (NaN, the largest integer, True): fresh `empty`
  memory, indices out of range, places assigned twice, scratch memory whose slot was asked for again.
- A `chain` is looked at as `cupy.fuse` does, by calling it with stand-ins that have operators and elementwise functions
  only: `FusedArray` and `FusedNumber`. Its results have the shape of all operands together.
- Memory is laid out as CuPy does it: results are C-contiguous whatever the operands were, where NumPy follows the
  operands. Where CuPy's layout varies (`_LAYOUT_VARIES`) they are F-contiguous, so that nobody counts on either.

Checked against the source of CuPy 14.2.
"""

import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import attrgetter
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from xpcnn import backend


class HostReadError(RuntimeError):
    """A value was read back to the host while that was forbidden."""


_total = SimpleNamespace(count=0)
_counters = [_total]
_forbidden = 0


def host_reads() -> int:
    """Return how often the host has read a value from the device so far, each time waiting for it."""
    return _total.count


@contextmanager
def count_host_reads() -> Iterator[SimpleNamespace]:
    """Count the host reads inside the block, on any thread, in the `count` of the yielded object."""
    with _counting(_counters) as counter:
        yield counter


@contextmanager
def _counting(counters: list[SimpleNamespace]) -> Iterator[SimpleNamespace]:
    counter = SimpleNamespace(count=0)
    counters.append(counter)
    try:
        yield counter
    finally:
        counters[:] = [other for other in counters if other is not counter]  # equal counts compare equal


@contextmanager
def forbid_host_reads() -> Iterator[None]:
    """Raise `HostReadError` at every host read inside the block, on any thread."""
    global _forbidden
    _forbidden += 1
    try:
        yield
    finally:
        _forbidden -= 1


def _host_read(what: str) -> None:
    if _forbidden:
        raise HostReadError(f"{what} reads from the device while host reads are forbidden")
    for counter in _counters:
        counter.count += 1


_operation_counters: list[SimpleNamespace] = []
_in_chain = 0


@contextmanager
def count_operations() -> Iterator[SimpleNamespace]:
    """Count what a GPU would be given to do, a chain as one operation, in the `count` of the yielded object."""
    with _counting(_operation_counters) as counter:
        yield counter


def _operation() -> None:
    if not _in_chain:
        for counter in _operation_counters:
            counter.count += 1


class Flags(NamedTuple):
    """All that CuPy says of an array's memory; nothing in it can be set."""

    c_contiguous: bool
    f_contiguous: bool
    owndata: bool


class StrictArray:
    """An array on the make-believe device; made by `xp.asarray` and its like, never from outside."""

    __slots__ = ("_host", "base")
    __hash__ = None  # type: ignore[assignment]  # as in CuPy, although operators are attached only below
    # So NumPy's operators leave the decision to ours, which take NumPy scalars, as CuPy does, and refuse NumPy arrays.
    __array_ufunc__ = None

    def __init__(self, host: np.ndarray, base: "StrictArray | None" = None):
        self._host = host
        self.base = base

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise TypeError("implicit conversion of a device array to a NumPy array")

    def __array_function__(self, function: Callable, types: Any, args: Any, kwargs: Any) -> None:
        raise TypeError(f"numpy.{function.__name__} was called on a device array")

    def __iter__(self) -> Iterator:
        raise TypeError("iteration over a device array: one launch per element")

    __reversed__ = None

    def __len__(self) -> int:
        return len(self._host)

    shape, dtype, ndim, size = (property(attrgetter(f"_host.{name}")) for name in ("shape", "dtype", "ndim", "size"))
    itemsize, nbytes, strides = (property(attrgetter(f"_host.{name}")) for name in ("itemsize", "nbytes", "strides"))
    T = property(lambda self: _deliver(self._host.T, [self]))

    @property
    def flags(self) -> "Flags":
        host = self._host.flags
        return Flags(host.c_contiguous, host.f_contiguous, self.base is None)

    def __repr__(self) -> str:  # unlike CuPy's it shows no values, so that pytest may print it at any time
        return f"StrictArray(shape={self.shape}, dtype={self.dtype})"

    def get(self) -> np.ndarray:
        _host_read("get()")
        return self._host.copy()

    def __reduce__(self) -> tuple:
        return DEVICE.asarray, (self.get(),)

    # Methods whose parameters are not those of the function of the same name; the others are attached below.

    def astype(self, dtype: Any, order: str = "K", *, copy: bool = True) -> "StrictArray":
        with np.errstate(all="ignore"):
            result = self._host.astype(dtype, order, copy=copy)
        if result is not self._host:
            _operation()
        return _deliver(result, [self], order=None)

    def copy(self, order: str = "C") -> "StrictArray":
        _operation()
        return _deliver(self._host.copy(order), [], order=None)

    __copy__ = copy

    def __deepcopy__(self, memo: object) -> "StrictArray":
        return self.copy()

    def fill(self, value: Any) -> None:
        self._host.fill(_lower(value, "S", [], "fill(value)"))

    def flatten(self, order: str = "C") -> "StrictArray":
        return _deliver(self._host.flatten(order), [])

    def reshape(self, *shape: Any, order: str = "C") -> "StrictArray":
        return xp.reshape(self, shape[0] if len(shape) == 1 else shape, order=order)

    def transpose(self, *axes: Any) -> "StrictArray":
        return xp.transpose(self, axes[0] if len(axes) == 1 else axes or None)

    def view(self, dtype: Any) -> "StrictArray":
        return _deliver(self._host.view(dtype), [self])

    def __getitem__(self, key: Any) -> "StrictArray":
        key, kinds = _host_key(key)
        if "b" in kinds:
            _host_read("boolean indexing")
            result = self._host[key]
        elif kinds:
            _operation()
            result = _gather(self._host, key)
        else:  # the added ellipsis makes NumPy answer with a 0-d view where it would copy out a scalar
            result = self._host[key if any(k is Ellipsis for k in key) else (*key, ...)]
        return _deliver(result, [self])

    def __setitem__(self, key: Any, value: Any) -> None:
        key, kinds = _host_key(key)
        value = _lower(value, "S", [], "x[...] = value")
        with np.errstate(all="ignore"):
            if "b" in kinds:
                _host_read("boolean assignment")
                self._host[key] = value
            elif kinds:
                _scatter(self._host, key, value)
            else:
                target = self[key]._host
                # What an operation in place has written already CuPy does not write again.
                if not isinstance(value, np.ndarray) or target.ctypes.data != value.ctypes.data:
                    _operation()
                _refuse_overlapping_copy(target, value)
                self._host[key] = value


class FusedArray(StrictArray):
    """What a chain sees of an array: its dtype, operators and elementwise functions, and `x[...] = value`."""

    __slots__ = ("full",)

    def __init__(self, host: np.ndarray, base: StrictArray | None = None, full: tuple[int, ...] | None = None):
        super().__init__(host, base)
        self.full = full  # the shape of all operands together, None for an intermediate result

    def __getattribute__(self, name: str) -> Any:
        if name in _HIDDEN_IN_FUSION:
            raise TypeError(f"{name} of an array inside a chain: a fused kernel sees single elements")
        return super().__getattribute__(name)

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("inside a chain: a fused kernel sees single elements")

    __abs__ = __len__ = __getitem__ = __matmul__ = __rmatmul__ = __float__ = __int__ = __bool__ = _refuse

    def __setitem__(self, key: Any, value: Any) -> None:
        if key not in (..., slice(None)):
            self._refuse()
        operands: list[StrictArray] = [self]
        lowered = _lower(value, "S", operands, "x[...] = value")
        _check_fused("copyto", [self], operands[:1], self._host)
        with np.errstate(all="ignore"):
            np.copyto(self._host, lowered, casting="same_kind")

    def astype(self, dtype: Any) -> "FusedArray":  # type: ignore[override]
        return FusedArray(self._host.astype(dtype))


class FusedNumber:
    """What a chain sees of a number: an operand. What two numbers give counts as an array's dtype does."""

    __array_ufunc__ = None

    def __init__(self, value: Any):
        self.value = value

    def __bool__(self) -> bool:
        raise TypeError("a number's value inside a chain: a fused kernel is made before it is known")

    __float__ = __int__ = __index__ = __bool__


def _fused(function: Callable, operands: tuple) -> Any:
    """Call a chain as a fused kernel would compute it."""
    if not function.__name__.isidentifier():
        raise ValueError(f"a chain called {function.__name__} cannot give its name to a kernel")
    arrays = [operand for operand in operands if isinstance(operand, StrictArray)]
    full = np.broadcast_shapes(*(array._host.shape for array in arrays))

    def stand_in(operand: Any) -> Any:
        if isinstance(operand, StrictArray):
            return FusedArray(operand._host, operand, full)
        if operand is None:
            return None
        if isinstance(operand, (int, float, np.generic)):
            return FusedNumber(operand)
        raise TypeError(f"a chain was called with {type(operand).__name__}")

    def result(value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, tuple):
            return tuple(map(result, value))
        if not isinstance(value, FusedArray):
            raise TypeError(f"a chain returned {type(value).__name__}")
        return StrictArray(np.array(np.broadcast_to(value._host, full), order="C"))

    global _in_chain
    _operation()
    _in_chain += 1
    try:
        return result(function(*map(stand_in, operands)))
    finally:
        _in_chain -= 1


# -- What may pass between host and device ----------------------------------------------------------------------------


def _lower(value: Any, kind: str, operands: list[StrictArray], where: str) -> Any:
    """Return an argument as NumPy shall see it, noting the device arrays in it; refuse what its kind forbids.

    A: a device array. S: also a scalar. L: a sequence of device arrays. H: anything; host data moves to the device.
    D: device arrays, dtypes and scalars. No kind: a value of the host, such as an axis or a shape.
    """
    if isinstance(value, StrictArray):
        if kind in ("A", "S", "H", "D"):
            operands.append(value)
            return value._host
    elif kind == "L" and isinstance(value, (list, tuple)):
        return [_lower(v, "A", operands, where) for v in value]
    elif kind == "H":
        host = np.asarray(value)
        return np.array(host, order="F" if host.flags.fnc else "C")
    elif kind == "S":
        if isinstance(value, FusedNumber):
            return value.value
        if isinstance(value, (bool, int, float, np.generic)):
            return value
    elif kind in ("", "D") and not isinstance(value, np.ndarray):
        return value
    expected = {"": "a value of the host", "D": "a device array or a dtype", "S": "a device array or a scalar"}
    got = type(value)
    raise TypeError(f"{where}: expected {expected.get(kind, 'a device array')}, got {got.__module__}.{got.__name__}")


def _deliver(result: Any, operands: list[StrictArray], order: str | None = "C") -> Any:
    """Wrap what NumPy returned: an operand as itself, a view of one with its base, anything new as a new array."""
    if result is None:
        return None
    if isinstance(result, (tuple, list)):
        return type(result)(_deliver(r, operands, order) for r in result)
    host = np.asarray(result)
    if any(isinstance(operand, FusedArray) for operand in operands):
        return next((operand for operand in operands if host is operand._host), FusedArray(host))
    for operand in operands:
        if host is operand._host:
            return operand
    for operand in operands:
        if np.may_share_memory(host, operand._host):
            return StrictArray(host, operand if operand.base is None else operand.base)
    return StrictArray(host if order is None else np.array(host, order=order, copy=None))


def _host_key(key: Any) -> tuple[tuple, set[str]]:
    """Return an index as NumPy shall see it, and the kinds ("b", "i", "u") of the arrays in it."""
    lowered, kinds = [], set()
    for item in key if isinstance(key, tuple) else (key,):
        if isinstance(item, StrictArray):
            item = item._host
            kinds.add(item.dtype.kind)
        elif isinstance(item, bool) or not (isinstance(item, (slice, int, np.integer)) or item is None or item is ...):
            raise TypeError(f"a device array was indexed with {type(item).__name__}: move it to the device first")
        lowered.append(item)
    if not kinds <= set("biu"):
        raise IndexError("arrays used as indices must be of integer or boolean type")
    return tuple(lowered), kinds


def _refuse_overlapping_copy(target: np.ndarray, value: Any) -> None:
    # For equal layouts CuPy takes a plain memory copy, undefined when source and target overlap but are not the same.
    if not isinstance(value, np.ndarray) or not np.may_share_memory(target, value):
        return
    same_layout = (target.shape, target.strides, target.dtype) == (value.shape, value.strides, value.dtype)
    if same_layout and target.flags.c_contiguous and target.ctypes.data != value.ctypes.data:
        raise ValueError("assignment between overlapping parts of one array")


# -- Poison -----------------------------------------------------------------------------------------------------------


def _poison(dtype: np.dtype) -> Any:
    return np.nan if dtype.kind == "f" else np.iinfo(dtype).max if dtype.kind in "iu" else True


def _poisoned(create: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    def function(*args: Any, **kwargs: Any) -> np.ndarray:
        array = create(*args, **kwargs)
        array.fill(_poison(array.dtype))
        return array

    return function


def _indexed_axes(key: tuple, ndim: int) -> Iterator[tuple[int, int]]:
    """Yield for each array in an index its position there and the axis it indexes."""
    consumed = sum(k is not None and k is not Ellipsis for k in key)
    axis = 0
    for position, k in enumerate(key):
        if isinstance(k, np.ndarray):
            yield position, axis
        axis += ndim - consumed if k is Ellipsis else k is not None


def _gather(a: np.ndarray, key: tuple) -> np.ndarray:
    """Return `a[key]`, with poison where an index is out of range; CuPy wraps those around."""
    indices, pads = list(key), [(0, 0)] * a.ndim
    for position, axis in _indexed_axes(key, a.ndim):
        length = a.shape[axis]
        outside = (key[position] < -length) | (key[position] >= length)
        if outside.any():
            pads[axis] = (0, 1)  # one place beyond the end, to be filled with poison and pointed at
            indices[position] = np.where(outside, length, key[position].astype(np.int64) % max(length, 1))
    if any(after for _, after in pads):
        a = np.pad(a, pads, constant_values=_poison(a.dtype))
    return a[tuple(indices)]


def _scatter(a: np.ndarray, key: tuple, value: Any) -> None:
    """Assign `a[key] = value`, then poison the places hit twice or by an index out of range."""
    wrapped = list(key)
    for position, axis in _indexed_axes(key, a.ndim):
        wrapped[position] = key[position].astype(np.int64) % a.shape[axis]
    a[tuple(wrapped)] = value
    places = np.arange(a.size).reshape(a.shape)
    hit = places[tuple(wrapped)]
    spoiled = hit[_gather(places, key) == _poison(places.dtype)]
    if np.ndim(value):  # one scalar written twice is the same whichever write comes last
        place, times = np.unique(hit, return_counts=True)
        spoiled = np.concatenate([spoiled, place[times > 1]])
    a.flat[spoiled] = _poison(a.dtype)


# -- The functions: signatures as both NumPy and CuPy accept them, annotated with the kinds of `_lower` ----------------

_FUNCTIONS = {
    "shape, dtype=_, order=_": "empty zeros ones",
    "shape, fill_value: S, dtype=_, order=_": "full",
    "a: A, /, dtype=_, order=_, *, shape=_": "empty_like zeros_like ones_like",
    "a: A, /, fill_value: S, dtype=_, order=_, *, shape=_": "full_like",
    "a: H, dtype=_, order=_": "asarray",
    "a: H, /, dtype=_, *, copy=_, order=_, ndmin=_": "array",
    "a: A, dtype=_": "ascontiguousarray",
    "a: A, order=_": "copy ravel",
    "a: A": "asnumpy nonzero",
    "start, stop=_, step=_, /, *, dtype=_": "arange",
    "start, stop, num=_, endpoint=_, *, dtype=_": "linspace",
    "N, M=_, k=_, dtype=_, order=_": "eye",
    "x1: S, /, out: A=_, *, dtype=_, casting=_": """negative positive abs absolute sign square sqrt cbrt reciprocal exp
        exp2 expm1 log log2 log10 log1p sin cos tan arctan sinh cosh tanh floor ceil rint trunc isnan isinf isfinite
        signbit logical_not invert""",
    "x1: S, x2: S, /, out: A=_, *, dtype=_, casting=_": """add subtract multiply divide true_divide floor_divide
        remainder power maximum minimum fmax fmin hypot logaddexp copysign equal not_equal less less_equal greater
        greater_equal logical_and logical_or logical_xor bitwise_and bitwise_or bitwise_xor left_shift right_shift""",
    "a: A, a_min: S, a_max: S, out: A=_": "clip",
    "condition: A, x: S=_, y: S=_, /": "where",
    "x1: A, x2: A, /, *, out: A=_": "matmul",
    "a: A, b: A": "dot may_share_memory shares_memory",
    "a: A, b: A, axes=_": "tensordot",
    "subscripts, /, *operands: A, dtype=_, optimize=_": "einsum",
    "a: A, axis=_, dtype=_, out: A=_, keepdims=_": "sum prod mean",
    "a: A, axis=_, dtype=_, out: A=_, ddof=_, keepdims=_": "var std",
    "a: A, axis=_, out: A=_, keepdims=_": "max any all",
    "a: A, axis=_, *, keepdims=_": "min",  # CuPy passes min's `out` on as the dtype
    "a: A, axis=_, *, out: A=_, keepdims=_": "argmax argmin",
    "a: A, axis=_, dtype=_, out: A=_": "cumsum",
    "a: A, axis=_": "count_nonzero squeeze",
    "a: A, shape, /, order=_": "reshape",
    "a: A, axes=_": "transpose",
    "a: A, source, destination": "moveaxis",
    "a: A, axis1, axis2": "swapaxes",
    "a: A, axis": "expand_dims",
    "array: A, shape": "broadcast_to",
    "*arrays: A": "broadcast_arrays atleast_1d atleast_2d",
    "arrays: L, /, axis=_, out: A=_, *, dtype=_, casting=_": "concatenate stack",
    "a: A, /, axis=_": "flip",
    "a: A, shift, axis=_": "roll",
    "a: A, repeats, axis=_": "repeat",
    "A: A, reps": "tile",
    "ary: A, indices_or_sections, axis=_": "split",
    "array: A, pad_width, mode=_, *, constant_values=_": "pad",
    "a: A, indices: S, axis=_, out: A=_": "take",
    "a: A, /, indices: A, axis": "take_along_axis",
    "arr: A, indices: A, values: S, axis": "put_along_axis",
    "a: A, axis=_, kind=_": "sort argsort",
    "ar: A, return_index=_, return_inverse=_, return_counts=_, axis=_, *, equal_nan=_": "unique",
    "dst: A, src: S, casting=_, where: A=_": "copyto",
    "x: A, shape=_, strides=_": "lib.stride_tricks.as_strided",
    "*arrays_and_dtypes: D": "result_type",
}
_HOST_VALUES = """float16 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool_ dtype finfo iinfo
    promote_types issubdtype floating integer broadcast_shapes pi e inf nan newaxis"""
_METHODS = """sum prod mean var std max min any all argmax argmin cumsum ravel squeeze swapaxes take repeat dot argsort
    nonzero"""
_ARITHMETIC = """add=add sub=subtract mul=multiply truediv=true_divide floordiv=floor_divide mod=remainder pow=power
    lshift=left_shift rshift=right_shift and=bitwise_and or=bitwise_or xor=bitwise_xor"""
_COMPARISONS = "eq=equal ne=not_equal lt=less le=less_equal gt=greater ge=greater_equal"
_UNARY = "neg=negative pos=positive abs=absolute invert=invert"
_READING = {"__float__": float, "__int__": int, "__bool__": bool, "__str__": str, "__format__": format}
_READING |= {"item": np.ndarray.item, "tolist": np.ndarray.tolist}

_READS_BACK = {"asnumpy", "nonzero", "unique", "shares_memory"}
_GIVES_HOST_VALUE = {"asnumpy", "may_share_memory", "shares_memory", "result_type"}
_FUSIBLE = {name for text, names in _FUNCTIONS.items() if text.startswith("x1: S") for name in names.split()}
_FUSIBLE |= {"clip", "where", "copyto"}
_HIDDEN_IN_FUSION = """shape size nbytes itemsize strides T flags get fill flatten reshape transpose view sum prod mean
    var std max min any all argmax argmin cumsum ravel squeeze swapaxes take repeat dot nonzero item tolist"""
_HIDDEN_IN_FUSION = frozenset(_HIDDEN_IN_FUSION.split())
_NO_WORK = {"empty", "empty_like", "asarray"}
_LAYOUT_VARIES = {"argsort", "cumsum", "einsum"}
_LAYOUT_KEPT = {"asarray", "array", "copy", "pad", "roll", "eye", "empty", "zeros", "ones", "full"}
_LAYOUT_KEPT |= {"empty_like", "zeros_like", "ones_like", "full_like"}


def _take(a: np.ndarray, indices: Any, axis: int | None = None) -> np.ndarray:
    if axis is None:
        a, axis = a.ravel(), 0
    axis = np.lib.array_utils.normalize_axis_index(axis, a.ndim)
    return _gather(a, (slice(None),) * axis + (np.asarray(indices),))


def _along_axis(a: np.ndarray, indices: np.ndarray, axis: int) -> tuple:
    key = list(np.ogrid[tuple(slice(n) for n in a.shape)])
    key[axis] = indices
    return tuple(key)


def _as_strided(x: np.ndarray, shape: Any = None, strides: Any = None) -> np.ndarray:
    view, owner = np.lib.stride_tricks.as_strided(x, shape, strides), x
    while owner.base is not None:
        owner = owner.base
    first, end = np.lib.array_utils.byte_bounds(owner)
    view_first, view_end = np.lib.array_utils.byte_bounds(view)
    if view.size and not first <= view_first <= view_end <= end:
        raise ValueError(f"as_strided: shape {shape} with strides {strides} leaves the memory of the array")
    return view


_OWN = {
    "empty": _poisoned(np.empty),
    "empty_like": _poisoned(np.empty_like),
    "take": _take,
    "take_along_axis": lambda a, indices, axis: _gather(a, _along_axis(a, indices, axis)),
    "put_along_axis": lambda arr, indices, values, axis: _scatter(arr, _along_axis(arr, indices, axis), values),
    "lib.stride_tricks.as_strided": _as_strided,
    "asnumpy": np.copy,
}


def _guarded(name: str, signature: inspect.Signature, function: Callable) -> Callable:
    """Return `function` as the device offers it: device arrays in, device arrays out, nothing else accepted."""
    order = None if name in _LAYOUT_KEPT else "F" if name in _LAYOUT_VARIES else "C"
    kinds = {p.name: "" if p.annotation is p.empty else p.annotation for p in signature.parameters.values()}
    variadic = next((p.name for p in signature.parameters.values() if p.kind is p.VAR_POSITIONAL), None)

    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"xp.{name}{signature}: {error}") from None
        operands: list[StrictArray] = []
        for argument, value in tuple(bound.arguments.items()):
            kind, where = kinds[argument], f"xp.{name}({argument})"
            if argument == variadic:
                bound.arguments[argument] = tuple(_lower(v, kind, operands, where) for v in value)
            elif value is None and kind:  # as if not given
                del bound.arguments[argument]
            else:
                bound.arguments[argument] = _lower(value, kind, operands, where)
        if name in _READS_BACK or (name == "where" and len(operands) == len(bound.arguments) == 1):
            _host_read(f"xp.{name}")
        out = bound.arguments.pop("out", None)
        if fused := [operand for operand in operands if isinstance(operand, FusedArray)]:
            _check_fused(name, fused, operands, out)
        with np.errstate(all="ignore"):  # a GPU raises no floating point warnings
            result = function(*bound.args, **bound.kwargs)
            if name in _GIVES_HOST_VALUE:
                return result
            if out is not None:
                if out.shape != np.shape(result):
                    raise ValueError(f"xp.{name}: out has shape {out.shape}, the result {np.shape(result)}")
                np.copyto(out, result, casting=bound.arguments.get("casting", "same_kind"))
                result = out
        delivered = _deliver(result, operands, order)
        is_new = getattr(delivered, "base", None) is None and all(delivered is not operand for operand in operands)
        if out is not None or (is_new and name not in _NO_WORK):
            _operation()
        return delivered

    call.__name__ = name
    call.__signature__ = signature  # type: ignore[attr-defined]
    return call


def _check_fused(name: str, fused: list[FusedArray], operands: list[StrictArray], out: np.ndarray | None) -> None:
    if name not in _FUSIBLE or len(fused) < len(operands):
        raise TypeError(f"xp.{name} inside a chain: only elementwise functions of its operands can be fused")
    for operand in fused:
        if operand._host is out and operand.full not in (None, out.shape):
            raise TypeError(f"a chain writes to an array {out.shape} for each element of {operand.full}")


class Namespace:
    """The functions and constants of the device, or of one of its submodules."""

    def __init__(self, members: dict[str, Any]):
        self.__dict__.update(members)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the make-believe device has no xp.{name}: list it in tests/strict_xp.py if CuPy has it")


def _signature(text: str) -> inspect.Signature:
    scope: dict[str, Any] = {kind: kind for kind in "ASLHD"} | {"_": None}
    exec(f"def function({text}): ...", scope)
    return inspect.signature(scope["function"])


def _build_namespace() -> Namespace:
    members: dict[str, Any] = {name: getattr(np, name) for name in _HOST_VALUES.split()} | {"ndarray": StrictArray}
    for text, names in _FUNCTIONS.items():
        for name in names.split():
            function = _OWN.get(name) or getattr(np, name)
            members[name] = _guarded(name, _signature(text), function)
    as_strided = members.pop("lib.stride_tricks.as_strided")
    members["lib"] = Namespace({"stride_tricks": Namespace({"as_strided": as_strided})})
    return Namespace(members)


xp = _build_namespace()


def _attach(name: str, function: Callable, *others: str) -> None:
    """Make a function a method, and its reflected ("r") and in-place ("i") forms likewise."""
    setattr(StrictArray, name.format(""), function)
    if "r" in others:
        setattr(StrictArray, name.format("r"), lambda self, other: function(other, self))
    if "i" in others:
        setattr(StrictArray, name.format("i"), lambda self, other: function(self, other, out=self))


for _name in _METHODS.split():
    _attach(_name, getattr(xp, _name))


def _combine(function: Callable, turn: bool) -> Callable:
    """Return an operator of two numbers, whose result is no longer weak: a fused kernel computes it in its own type."""

    def operator(self: FusedNumber, other: Any) -> Any:
        if isinstance(other, StrictArray):
            return NotImplemented
        pair = (self.value, other.value if isinstance(other, FusedNumber) else other)
        return FusedNumber(np.float64(function(*(reversed(pair) if turn else pair))))

    return operator


for _pair in _ARITHMETIC.split():
    _name, _function = _pair.split("=")
    setattr(FusedNumber, f"__{_name}__", _combine(getattr(np, _function), turn=False))
    setattr(FusedNumber, f"__r{_name}__", _combine(getattr(np, _function), turn=True))
for _name, _convert in _READING.items():
    _attach(_name, lambda self, *args, convert=_convert: convert(self.get(), *args))
for _pairs, _others in ((_ARITHMETIC, "ri"), ("matmul=matmul", "r"), (_COMPARISONS, ""), (_UNARY, "")):
    for _pair in _pairs.split():
        _name, _function = _pair.split("=")
        _attach(f"__{{}}{_name}__", getattr(xp, _function), *_others)


# -- The device -------------------------------------------------------------------------------------------------------


class StrictDevice(backend.Device):
    """The make-believe device, cut into several small tiles so that every tiled path runs."""

    name = "strict"
    description = "NumPy dressed as CuPy"
    xp = xp
    tile_bytes = 1 << 13
    small_product = 10**5

    def __init__(self) -> None:
        self._local = threading.local()

    def __reduce__(self) -> str:
        return "DEVICE"

    def to_host(self, x: StrictArray) -> np.ndarray:
        return x.get()

    def fused(self, function: Callable) -> Callable:
        def call(*operands: Any) -> Any:
            if any(isinstance(operand, FusedArray) for operand in operands):  # a chain inside another
                return function(*operands)
            return _fused(function, operands)

        return call

    def scratch(self, shape: backend.Shape, dtype: Any, slot: str) -> StrictArray:
        previous = self._local.__dict__.get(slot)
        if previous is not None:
            previous.fill(_poison(previous.dtype))
        self._local.__dict__[slot] = array = self.empty(shape, dtype)
        return array

    def parts(self, work: int, at_most: int | None = None) -> int:
        return 3 if at_most is None else max(1, min(3, at_most))

    def map(self, function: Callable, tasks: Any) -> list:
        # Tasks may run at the same time, so none may count on an earlier one: here the last runs first.
        return [function(task) for task in reversed(tasks)][::-1]


DEVICE = StrictDevice()
backend.register(StrictArray, lambda array: DEVICE)
