"""Files of weights that PyTorch writes and reads, without PyTorch: `.safetensors`, `.pt` and `.pth`.

Since PyTorch 1.6 a `.pt` file is a zip archive: a pickle that names storages and the tensors in them, and the bytes of
each storage. Before, it was that pickle with the storages behind it.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..backend import Array, HostArray, to_host
from ..data.errors import DataError
from ..data.files import open_file
from .checkpoint import DTYPES as SAFETENSORS
from .files import write_atomically
from .torch_pickle import DTYPES, Storage, read_pickle

_MAGIC = 0x1950A86A20F9469CFC6C  # the first number of the format before PyTorch 1.6
_WRAPPED = ("state_dict", "model")  # the keys under which training scripts save it


def load_torch(path: str | os.PathLike[str]) -> dict[str, HostArray]:
    """Return the arrays of a file of weights by name, for `Module.load_state_dict`.

    They are equal to those of `torch.load(path, weights_only=True)` bit by bit; bfloat16 becomes float32, which has
    all its values. Arrays that shared memory share it here. Nothing of the file is run, and the memory that is taken
    is at most three times the file's size.

    Args:
        path: a `.safetensors` file, or what `torch.save(model.state_dict(), path)` wrote with any version of PyTorch;
            also a dictionary that has the state under `"state_dict"` or `"model"`.

    Raises:
        DataError: if the file cannot be read, is damaged, or holds anything but numbers by name; in one line.
    """
    try:
        with open_file(path) as file:
            content = file.read()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    try:
        if Path(path).suffix == ".safetensors":
            return _read_safetensors(content)
        return _by_name(_read_zip(content) if content[:2] == b"PK" else _read_older(content))
    except DataError as error:
        raise DataError(f"{path} is not a file of weights: {error}") from error


def save_torch(path: str | os.PathLike[str], state: Mapping[str, Array]) -> None:
    """Write arrays by name, such as `model.state_dict()`, to a `.safetensors` file.

    In PyTorch `model.load_state_dict(safetensors.torch.load_file(path))` loads it.

    Args:
        path: its name has to end with `.safetensors`. An existing file is replaced when the new one is complete.
        state: arrays of any device.

    Raises:
        ValueError: if the name ends otherwise.
        OSError: if the file cannot be written.
    """
    from safetensors.numpy import save

    if Path(path).suffix != ".safetensors":
        raise ValueError(f"weights are written to a .safetensors file, got {str(path)!r}")
    # Not ascontiguousarray, which would turn 0-d arrays into 1-d ones.
    host = {name: np.asarray(to_host(array), order="C") for name, array in state.items()}
    write_atomically(path, save(host, {"format": "pt"}))


def _read_safetensors(content: bytes) -> dict[str, HostArray]:
    from safetensors import SafetensorError, deserialize

    try:
        found = deserialize(content)  # type: ignore[no-untyped-call]
    except (SafetensorError, ValueError, RecursionError) as error:
        raise DataError(f"it is damaged ({error!s:.200})") from error
    arrays = {}
    for name, entry in found:
        if entry["dtype"] not in SAFETENSORS and entry["dtype"] != "BF16":
            raise DataError(f"{name:.100} is of type {entry['dtype']}, which NumPy does not have")
        numbers = np.frombuffer(entry["data"], SAFETENSORS.get(entry["dtype"], "u2"))
        try:
            arrays[name] = (_widened(numbers) if entry["dtype"] == "BF16" else numbers).reshape(entry["shape"])
        except ValueError as error:  # more axes, or longer ones, than NumPy can have
            raise DataError(f"{name:.100} has a shape that NumPy refuses") from error
    return arrays


def _read_zip(content: bytes) -> Any:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise DataError(f"a zip archive with {len(pickles)} files data.pkl, expected one")
            folder = pickles[0].removesuffix("data.pkl")
            order: Literal["<", ">"] = "<"
            if f"{folder}byteorder" in archive.namelist():
                order = ">" if _stored(archive, f"{folder}byteorder") == b"big" else "<"
            storages: dict[str, HostArray] = {}
            left = len(content)

            def storage(kind: str, key: str, count: int) -> HostArray:
                nonlocal left
                if key not in storages:
                    data = _stored(archive, f"{folder}data/{key}")
                    left -= len(data)
                    if left < 0:  # members that overlap
                        raise DataError("its storages have more bytes than the file")
                    storages[key] = _numbers(kind, data, count, order)
                return storages[key]

            return read_pickle(io.BytesIO(_stored(archive, pickles[0])), storage)
    except DataError:
        raise
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, struct.error) as error:
        raise DataError(f"the zip archive is damaged ({error!s:.100})") from error


def _stored(archive: zipfile.ZipFile, name: str) -> bytes:
    """Return a file of an archive. PyTorch compresses none, so a compressed one may be of any size."""
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise DataError(f"the zip archive has no file {name:.100}") from None
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise DataError(f"{name:.100} is compressed, which PyTorch's files are not")
    return archive.read(info)


def _read_older(content: bytes) -> Any:
    file = io.BytesIO(content)
    storages: dict[str, tuple[str, HostArray]] = {}
    left = len(content)

    def storage(kind: str, key: str, count: int) -> HostArray:
        # Its numbers come after the pickle: they are read into this array.
        nonlocal left
        if key not in storages:
            dtype = np.dtype(DTYPES[kind])
            left -= count * dtype.itemsize
            if left < 0:
                raise DataError("its storages have more bytes than the file")
            storages[key] = kind, np.zeros(count, np.float32 if kind == "BFloat16Storage" else dtype)
        kind_before, numbers = storages[key]
        if kind_before != kind or len(numbers) != count:
            raise DataError(f"storage {key:.40} has two types or sizes")
        return numbers

    if _plain(file) != _MAGIC:
        raise DataError("neither a zip archive nor PyTorch's older format")
    for _ in ("the version", "sizes of numbers"):
        _plain(file)
    state, keys = read_pickle(file, storage), _plain(file)
    if not isinstance(keys, list) or {*map(str, keys)} != storages.keys():
        raise DataError("its storages are not those that its tensors name")
    for key in keys:
        kind, numbers = storages[key]
        dtype = np.dtype(DTYPES[kind])
        count = int.from_bytes(file.read(8), "little")
        if count != len(numbers):
            raise DataError(f"storage {key:.40} has {count} numbers, {len(numbers)} were expected")
        numbers[:] = _numbers(kind, file.read(count * dtype.itemsize), count, "<")
    return state


def _plain(file: io.BytesIO) -> Any:
    """Return a pickle without tensors."""

    def refuse(kind: str, key: str, count: int) -> HostArray:
        raise DataError("a storage where none belongs")

    no_storages: Storage = refuse
    return read_pickle(file, no_storages)


def _numbers(kind: str, data: bytes, count: int, order: Literal["<", ">"]) -> HostArray:
    """Return a storage's numbers, in memory that may be written to."""
    dtype = np.dtype(DTYPES[kind]).newbyteorder(order)
    if len(data) != count * dtype.itemsize:
        raise DataError(f"a storage of {len(data)} bytes, expected {count} numbers of {dtype.itemsize}")
    numbers: HostArray = np.frombuffer(data, dtype)
    if kind == "BFloat16Storage":
        return _widened(numbers)
    if dtype.kind == "b":  # bytes other than 0 and 1 are no values that NumPy knows
        return np.not_equal(numbers.view(np.uint8), 0)
    return numbers.astype(dtype.newbyteorder("="))


def _widened(halves: HostArray) -> HostArray:
    """Return bfloat16 numbers as float32, whose upper halves they are."""
    words: HostArray = halves.astype(np.uint32) << 16
    return words.view(np.float32)


def _by_name(state: Any) -> dict[str, HostArray]:
    for key in _WRAPPED:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict):
        raise DataError(f"it holds {type(state).__name__}, expected arrays by name")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, np.ndarray):
            raise DataError(f"{name!r:.100} is of type {type(value).__name__}, expected arrays by name")
    return state
