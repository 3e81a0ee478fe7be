"""Checkpoints: arrays in the safetensors format, everything else as JSON in its header. Nothing is unpickled.

The header holds a SHA-256 of each array, with its name, data type and shape, and one of the JSON.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import Array, HostArray, to_host
from ..data.errors import one_line
from .files import write_atomically

_FORMAT, _VERSION = "xpcnn-checkpoint", 5
# Before 2 there were no optimizer step counts, before 3 no digests, before 4 no best weights, before 5 no averages.
_READABLE = ("1", "2", "3", "4", "5")
_INFO = "info"  # the key of the JSON's digest; the keys of arrays contain a dot
DTYPES = dict(
    zip(
        ["F64", "F32", "F16", "BOOL", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8"],  # safetensors' names
        ["f8", "f4", "f2", "bool", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1"],  # NumPy's
        strict=True,
    )
)


class CheckpointError(ValueError):
    """A file is missing, damaged, or not a checkpoint of this package; the message says which."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))  # it may quote the file


@dataclass
class Checkpoint:
    """The state of a model, and of its training.

    Attributes:
        model: `Module.state_dict()`; with an EMA, of the averaged weights.
        optimizer: `Optimizer.state_dict()`; empty if training cannot be resumed.
        info: further values that JSON can represent.
        best: `Module.state_dict()` after the best epoch; empty if training has no validation.
        training: with an EMA, `Module.state_dict()` of the weights that training goes on with; else empty.
    """

    model: Mapping[str, Array]
    optimizer: Mapping[str, Array] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    best: Mapping[str, Array] = field(default_factory=dict)
    training: Mapping[str, Array] = field(default_factory=dict)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the checkpoint. An existing file is replaced only when the new one is complete and on the disk.

        Raises:
            OSError: if it cannot be written.
            TypeError: if JSON cannot represent `info`.
        """
        write_atomically(path, self.to_bytes())

    def to_bytes(self) -> bytes:
        """Return the content of the file.

        Raises:
            TypeError: if JSON cannot represent `info`.
        """
        from safetensors.numpy import save

        parts = {"model": self.model, "optimizer": self.optimizer, "best": self.best, "training": self.training}
        arrays = {f"{part}.{name}": array for part, state in parts.items() for name, array in state.items()}
        # Not ascontiguousarray, which would turn 0-d arrays into 1-d ones.
        host = {name: np.asarray(to_host(array), order="C") for name, array in arrays.items()}
        info = json.dumps(self.info)
        digests = {name: _digest(name, array) for name, array in host.items()}
        digests[_INFO] = sha256(info.encode()).hexdigest()
        header = {"format": _FORMAT, "version": str(_VERSION), "info": info, "sha256": json.dumps(digests)}
        return save(host, header)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Checkpoint:
        """Read a checkpoint and verify its digests; those before version 3 have none.

        Returns:
            the checkpoint; its arrays are NumPy's.

        Raises:
            CheckpointError: if there is no such file, or it is damaged, foreign, or of a newer version.
        """
        return cls.from_bytes(read_checkpoint(path), path)

    @classmethod
    def from_bytes(cls, data: bytes, path: str | os.PathLike[str]) -> Checkpoint:
        """Return the checkpoint whose file has this content; `path` names it in the message of an error."""
        header, arrays = _parse(data, path)
        if header.get("format") != _FORMAT:
            raise CheckpointError(f"{path} is a safetensors file, but not an xpcnn checkpoint")
        if header.get("version") not in _READABLE:
            known = ", ".join(_READABLE)
            raise CheckpointError(
                f"{path} has checkpoint version {header.get('version')}, this package reads {known}: update xpcnn"
            )
        try:
            info = json.loads(header["info"])
        except (KeyError, ValueError, RecursionError) as error:
            raise CheckpointError(f"{path} has a damaged header: info is not JSON ({error})") from error
        if not isinstance(info, dict):
            raise CheckpointError(f"{path} has a damaged header: expected info to be a JSON object, got {info!r:.40}")
        if header["version"] not in ("1", "2"):
            _verify(path, header, arrays)
        parts: dict[str, dict[str, Array]] = {"model": {}, "optimizer": {}, "best": {}, "training": {}}
        for key, array in arrays.items():
            part, _, name = key.partition(".")
            if part not in parts:
                raise CheckpointError(f"{path} has an unknown entry {key!r}")
            parts[part][name] = array
        return cls(parts["model"], parts["optimizer"], info, parts["best"], parts["training"])


def read_checkpoint(path: str | os.PathLike[str]) -> bytes:
    """Return the content of a checkpoint's file.

    Raises:
        CheckpointError: if it is absent or cannot be read.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"no checkpoint at {path}")
    try:
        # Into memory, not mapped: if a mapped file were truncated meanwhile, the process would be killed.
        return Path(path).read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error


def on_host(state: Mapping[str, Array]) -> dict[str, HostArray]:
    """Return copies of arrays on the host, which further training does not change."""
    return {name: np.array(to_host(array)) for name, array in state.items()}


def non_finite(state: Mapping[str, HostArray]) -> str:
    """Return which array has values that are nan or infinite, as the start of a message; "" if none has."""
    for name, array in state.items():
        count = 0 if array.dtype.kind != "f" else np.count_nonzero(~np.isfinite(array))
        if count:
            return f"{name} has {count:,} values that are nan or infinite"
    return ""


def _parse(data: bytes, path: str | os.PathLike[str]) -> tuple[dict[str, str], dict[str, HostArray]]:
    """Return the header's text entries and the arrays of a safetensors file."""
    from safetensors import SafetensorError, deserialize

    try:
        found = deserialize(data)  # type: ignore[no-untyped-call]
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
    except (SafetensorError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged or not a checkpoint: {error}") from error
    arrays = {}
    for name, entry in found:
        if entry["dtype"] not in DTYPES:
            raise CheckpointError(f"{path}: {name} is of type {entry['dtype']}, which NumPy does not have")
        try:
            arrays[name] = np.frombuffer(entry["data"], DTYPES[entry["dtype"]]).reshape(entry["shape"])
        except ValueError as error:  # more axes, or longer ones, than NumPy can have
            raise CheckpointError(f"{path} is damaged: {name} has a shape that NumPy refuses ({error})") from error
    return header, arrays


def _verify(path: str | os.PathLike[str], header: dict[str, str], arrays: dict[str, HostArray]) -> None:
    """Raise CheckpointError unless the digests are those of the arrays and of the JSON."""
    try:
        digests = json.loads(header["sha256"])
    except (KeyError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} has a damaged header: sha256 is not JSON ({error})") from error
    if not isinstance(digests, dict) or digests.keys() != {*arrays, _INFO}:
        raise CheckpointError(f"{path} is damaged: its digests are not those of its arrays")
    if digests[_INFO] != sha256(header["info"].encode()).hexdigest():
        raise CheckpointError(f"{path} is damaged: info is not as it was saved (its SHA-256 differs)")
    for name, array in arrays.items():
        if digests[name] != _digest(name, array):
            raise CheckpointError(f"{path} is damaged: {name} is not as it was saved (its SHA-256 differs)")


def _digest(name: str, array: HostArray) -> str:
    total = sha256(f"{name} {array.dtype.name} {array.shape}".encode())
    total.update(np.asarray(array, order="C").reshape(-1).view(np.uint8).data)
    return total.hexdigest()
