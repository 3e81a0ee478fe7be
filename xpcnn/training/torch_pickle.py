"""The part of the pickle format that PyTorch's files of weights need, read without running anything.

A pickle is a program for a stack machine. This one knows numbers, texts, lists, dictionaries and tensors. It has no
instruction that calls or imports: a name of Python's is a text here, and any but those of tensors is refused.
"""

from __future__ import annotations

import io
import pickletools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from ..backend import HostArray
from ..data.errors import DataError

DTYPES = {  # of PyTorch's storages; bfloat16, which NumPy lacks, is read as the upper halves of float32
    "DoubleStorage": "f8",
    "FloatStorage": "f4",
    "HalfStorage": "f2",
    "BFloat16Storage": "u2",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
_DICT, _TENSOR, _PARAMETER = (
    "collections.OrderedDict",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
)
_STORAGES = {f"torch.{name}": name for name in DTYPES}
_NAMES = {_DICT, _TENSOR, _PARAMETER, *_STORAGES}

Storage = Callable[[str, str, int], HostArray]


class _Name(str):
    """A name of Python's in a pickle."""

    __slots__ = ()


def read_pickle(file: io.BytesIO, storage: Storage) -> Any:
    """Return what a pickle describes, with arrays for its tensors; the file is then at the pickle's end.

    Args:
        file: at the pickle's start.
        storage: called with a storage's type in `DTYPES`, its key and how many numbers it has; returns them.

    Raises:
        DataError: if the pickle is damaged, or has anything but numbers, texts, lists, dictionaries and tensors.
    """
    try:
        with warnings.catch_warnings(action="error"):  # texts with escapes that Python does not know
            return _run(file, storage)
    except DataError:
        raise
    # Operands of other types, or too few of them.
    except (ValueError, TypeError, LookupError, OverflowError, Warning) as error:
        raise DataError(f"its pickle is damaged ({error!s:.100})") from error


def _run(file: io.BytesIO, storage: Storage) -> Any:
    stack: list[Any] = []
    marked: list[list[Any]] = []  # the stacks below each mark
    memo: dict[Any, Any] = {}

    def since_mark() -> list[Any]:
        nonlocal stack
        items, stack = stack, marked.pop()
        return items

    for opcode, argument, _ in pickletools.genops(file):
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case "MARK":
                marked.append(stack)
                stack = []
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET" | "GET":
                stack.append(memo[argument])
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode.name == "NEWTRUE")
            case _ if opcode.name in _LITERALS:
                stack.append(argument)
            case "EMPTY_DICT":
                stack.append({})
            case "DICT":
                items = since_mark()
                stack.append(dict(zip(map(_key, items[::2]), items[1::2], strict=True)))
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE":
                items = since_mark()  # which replaces `stack`
                stack.append(tuple(items))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(opcode.name[-1])
                if len(stack) < count:
                    raise IndexError("too few operands")
                stack[-count:] = [tuple(stack[-count:])]
            case "APPEND":
                item = stack.pop()
                _of(list, stack[-1]).append(item)
            case "APPENDS":
                items = since_mark()
                _of(list, stack[-1]).extend(items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _of(dict, stack[-1])[_key(key)] = value
            case "SETITEMS":
                items = since_mark()
                values = zip(map(_key, items[::2]), items[1::2], strict=True)
                _of(dict, stack[-1]).update(values)
            case "GLOBAL":
                stack.append(_known(str(argument).replace(" ", ".")))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(_known(f"{_of(str, module)}.{_of(str, name)}"))
            case "BINPERSID":
                stack.append(_storage(stack.pop(), storage))
            case "REDUCE":
                operands = _of(tuple, stack.pop())
                stack.append(_made(_of(_Name, stack.pop()), operands))
            case "BUILD":  # attributes, such as the versions of layers that a state dictionary of PyTorch's has
                _of(dict, stack.pop())
                _of(dict, stack[-1])
            case name:
                if name == "INST":
                    _known(str(argument).replace(" ", "."))
                raise DataError(f"its pickle has {name}, which weights do not need")
    raise AssertionError("a pickle without an end is an error of pickletools")


_LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "INT", "LONG", "BINFLOAT", "FLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "UNICODE", "BINSTRING", "SHORT_BINSTRING", "STRING"),
}


def _known(name: str) -> _Name:
    if name not in _NAMES:
        raise DataError(f"its pickle asks for {name:.100}, which weights do not need: nothing was run")
    return _Name(name)


def _made(name: str, operands: tuple[Any, ...]) -> Any:
    """Return what the pickle would call one of `_NAMES` for."""
    if name == _DICT:
        return {_key(key): value for key, value in _of(list, operands[0])} if operands else {}
    if name == _PARAMETER:
        return _of(np.ndarray, operands[0])
    if name == _TENSOR:
        return _view(*operands[:4])
    raise DataError("its pickle calls the type of a storage")


def _storage(key: Any, storage: Storage) -> HostArray:
    """Return the numbers that a persistent id names."""
    word, kind, name, _, count, *view = _of(tuple, key)
    if word != "storage" or not isinstance(kind, _Name) or kind not in _STORAGES:
        raise DataError("its pickle refers to something that is no storage")
    numbers = storage(_STORAGES[kind], _of(str, name), _count(count))
    if view and view[0] is not None:  # a part of another storage, in files before PyTorch 0.4
        _, first, length = _of(tuple, view[0])
        return numbers[_count(first) :][: _count(length)]
    return numbers


def _view(storage: Any, offset: Any, shape: Any, strides: Any) -> HostArray:
    """Return a tensor, after checking that all of it lies inside its storage."""
    numbers, offset = _of(np.ndarray, storage), _count(offset)
    shape = tuple(map(_count, _of(tuple, shape)))
    strides = tuple(map(_count, _of(tuple, strides)))
    if len(shape) != len(strides):
        raise DataError(f"a tensor has {len(shape)} axes and {len(strides)} strides")
    if 0 not in shape:
        last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
        if last >= numbers.size:
            raise DataError(f"a tensor of shape {shape!s:.60} reaches beyond its storage of {numbers.size} numbers")
    elif offset > numbers.size:
        raise DataError("a tensor starts beyond its storage")
    size = numbers.itemsize
    return np.lib.stride_tricks.as_strided(numbers[offset:], shape, tuple(stride * size for stride in strides))


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**62:
        raise DataError(f"its pickle has {value!s:.40} where a size belongs")
    return value


def _key(key: Any) -> Any:
    if not isinstance(key, str | int):
        raise DataError(f"its pickle has a dictionary with a key of type {type(key).__name__}")
    return key


def _of(kind: type[Any], value: Any) -> Any:
    if not isinstance(value, kind):
        raise DataError(f"its pickle has {type(value).__name__} where {kind.__name__.lstrip('_')} belongs")
    return value
