"""The files of a trace: arrays as safetensors; all else as JSON, with a SHA-256 of every file."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import HostArray
from ..data.errors import one_line
from ..data.files import open_file
from .observe import LayerCall, LossCall
from .schema import misfit
from .steps import StepResult

INFO = "trace.json"
_LOSS_ARRAYS = ("output", "target", "value", "gradient")


class TraceError(ValueError):
    """A trace is missing, damaged, of another version, or cannot be repeated here; the message says why in one line."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))  # it may quote the file


class Folder:
    """A trace's folder.

    Attributes:
        path: where it is.
        stored: how many bytes of activations and gradients were written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stored = 0
        self._digests: dict[str, str] = {}

    def write_arrays(self, name: str, arrays: dict[str, HostArray]) -> None:
        """Write a file of arrays."""
        from safetensors.numpy import save

        data = save({key: np.asarray(array, order="C") for key, array in arrays.items()})
        (self.path / name).write_bytes(data)
        self._digests[name] = sha256(data).hexdigest()

    def write_info(self, format: str, version: int, info: dict[str, Any]) -> None:
        """Write `trace.json`. It is written last: a folder without it is no trace."""
        info = {"format": format, "version": version, **info, "sha256": self._digests}
        info["sha256"][INFO] = _digest_of(info)
        (self.path / INFO).write_text(json.dumps(info, indent=1) + "\n", encoding="utf-8")

    def read_info(self, format: str, version: int) -> dict[str, Any]:
        """Return the contents of `trace.json`.

        Raises:
            TraceError: if it is absent, damaged, or of another format or version.
        """
        try:
            with open_file(self.path / INFO) as file:
                info = json.loads(file.read().decode())
        except OSError as error:
            raise TraceError(f"{self.path} is no trace: {INFO} cannot be read ({error.strerror})") from error
        except (ValueError, RecursionError) as error:
            raise TraceError(f"{self.path} is damaged: {INFO} is not JSON ({error})") from error
        if not isinstance(info, dict) or info.get("format") != format:
            raise TraceError(f"{self.path} is no trace: {INFO} does not say that it is one")
        found = info.get("version")
        if found != version:
            newer = isinstance(found, int) and found > version
            advice = "update xpcnn" if newer else "record it again"
            raise TraceError(f"{self.path} has trace version {found}, this xpcnn reads version {version}: {advice}")
        digests = info.get("sha256")
        try:
            whole = isinstance(digests, dict) and digests.pop(INFO, None) == _digest_of(info)
        except RecursionError:
            whole = False
        if not whole:
            raise TraceError(f"{self.path} is damaged: {INFO} is not as it was recorded (its SHA-256 differs)")
        if fault := misfit(info):
            raise TraceError(f"{self.path} is damaged: {INFO}: {fault}")
        return info

    def verify(self, names: list[str], info: dict[str, Any]) -> None:
        """Raise TraceError if a file is not as it was recorded."""
        for name in names:
            if sha256(self._read(name)).hexdigest() != info["sha256"].get(name):
                raise TraceError(f"{self.path} is damaged: {name} is not as it was recorded (its SHA-256 differs)")

    def read_arrays(self, name: str) -> dict[str, HostArray]:
        """Return the arrays of a file that `verify` has passed."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            return load(self._read(name))
        except (SafetensorError, KeyError, ValueError) as error:  # KeyError: a data type that NumPy does not have
            raise TraceError(f"{self.path} is damaged: {name} has arrays that cannot be read ({error})") from error

    def _read(self, name: str) -> bytes:
        try:
            with open_file(self.path / name) as file:
                return file.read()
        except OSError as error:
            raise TraceError(f"{self.path} is damaged: {name} cannot be read ({error.strerror})") from error


def store_step(folder: Folder, name: str, result: StepResult, room: int) -> dict[str, Any] | None:
    """Write all arrays of a step, equal ones once.

    Returns:
        the entries for `trace.json`; None, with nothing written, if the arrays take more than `room` bytes.
    """
    arrays: dict[str, HostArray] = {}
    keys: dict[tuple[str, str, tuple[int, ...]], str] = {}

    def key(array: HostArray) -> str:
        # A layer's output is the next layer's input. Both are copies, so only their values tell.
        array = np.asarray(array, order="C")
        identity = (sha256(array.tobytes()).hexdigest(), array.dtype.name, array.shape)
        if identity not in keys:
            keys[identity] = str(len(keys))
            arrays[keys[identity]] = array
        return keys[identity]

    calls = []
    for call in result.calls:
        entry: dict[str, Any] = {"name": call.name, "kind": call.kind, "arithmetic": call.arithmetic}
        entry |= {"x": key(call.x), "y": key(call.y)}
        entry |= {part: key(array) for part, array in (("dy", call.dy), ("dx", call.dx)) if array is not None}
        calls.append(entry | {"gradients": {part: key(array) for part, array in call.gradients.items()}})
    loss = {"kind": result.loss.kind} | {part: key(getattr(result.loss, part)) for part in _LOSS_ARRAYS}
    after = {part: key(array) for part, array in result.after.items()}
    size = sum(array.nbytes for array in arrays.values())
    if size > room:
        return None
    folder.write_arrays(name, arrays)
    folder.stored += size
    return {"file": name, "calls": calls, "loss_call": loss, "after": after}


def load_step(folder: Folder, step: int, entry: dict[str, Any]) -> StepResult:
    """Return what `store_step` wrote.

    Raises:
        TraceError: if part of it is absent.
    """
    arrays = folder.read_arrays(entry["file"])
    calls = []
    try:
        for call in entry["calls"]:
            x, y = (arrays[call[part]] for part in ("x", "y"))
            dy, dx = (arrays[call[part]] if part in call else None for part in ("dy", "dx"))
            gradients = {part: arrays[key] for part, key in call["gradients"].items()}
            calls.append(LayerCall(call["name"], call["kind"], call["arithmetic"], x, y, dy, dx, gradients))
        loss = entry["loss_call"]
        output, target, value, gradient = (arrays[loss[part]] for part in _LOSS_ARRAYS)
        after = {part: arrays[key] for part, key in entry["after"].items()}
        return StepResult(step, entry["correct"], calls, LossCall(loss["kind"], output, target, value, gradient), after)
    except (KeyError, TypeError) as error:
        raise TraceError(f"{folder.path} is damaged: step {step} does not describe its arrays ({error!r})") from error


def _digest_of(info: dict[str, Any]) -> str:
    return sha256(json.dumps(info, sort_keys=True).encode()).hexdigest()


def read_array(path: Path, arrays: dict[str, HostArray], key: str) -> HostArray:
    """Return one array, or raise TraceError if it is absent."""
    if key not in arrays:
        raise TraceError(f"{path} is damaged: {key} is absent")
    return arrays[key]
