"""Checkpoints: arrays in the safetensors format, everything else as JSON in its header. Nothing is unpickled."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import Array, to_host

_FORMAT, _VERSION = "xpcnn-checkpoint", 2
_READABLE = ("1", "2")  # version 1 has no optimizer step counts


class CheckpointError(ValueError):
    """A file is missing, damaged, or not a checkpoint of this package; the message says which."""


@dataclass
class Checkpoint:
    """The state of a model, and of its training.

    Attributes:
        model: `Module.state_dict()`.
        optimizer: `Optimizer.state_dict()`; empty if training cannot be resumed.
        info: further values that JSON can represent.
    """

    model: Mapping[str, Array]
    optimizer: Mapping[str, Array] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the checkpoint. An existing file is replaced only when the new one is complete."""
        from safetensors.numpy import save

        arrays = {f"model.{name}": array for name, array in self.model.items()}
        arrays |= {f"optimizer.{name}": array for name, array in self.optimizer.items()}
        # Not ascontiguousarray, which would turn 0-d arrays into 1-d ones.
        host = {name: np.asarray(to_host(array), order="C") for name, array in arrays.items()}
        header = {"format": _FORMAT, "version": str(_VERSION), "info": json.dumps(self.info)}
        path = Path(path)
        part = path.with_name(path.name + ".part")
        part.write_bytes(save(host, header))
        part.replace(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Checkpoint:
        """Read a checkpoint; its arrays are NumPy's.

        Raises:
            CheckpointError: if there is no such file, or it is damaged, foreign, or of a newer version.
        """
        from safetensors import SafetensorError, safe_open

        if not Path(path).is_file():
            raise CheckpointError(f"no checkpoint at {path}")
        try:
            with safe_open(path, framework="numpy") as file:
                header = file.metadata() or {}
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(f"{path} is damaged or not a checkpoint: {error}") from error
        if header.get("format") != _FORMAT:
            raise CheckpointError(f"{path} is a safetensors file, but not an xpcnn checkpoint")
        if header.get("version") not in _READABLE:
            raise CheckpointError(
                f"{path} has checkpoint version {header.get('version')}, this package reads {' and '.join(_READABLE)}"
            )
        try:
            info = json.loads(header["info"])
        except (KeyError, json.JSONDecodeError) as error:
            raise CheckpointError(f"{path} has a damaged header: {error}") from error
        parts: dict[str, dict[str, Array]] = {"model": {}, "optimizer": {}}
        for key, array in arrays.items():
            part, _, name = key.partition(".")
            if part not in parts:
                raise CheckpointError(f"{path} has an unknown entry {key!r}")
            parts[part][name] = array
        return cls(parts["model"], parts["optimizer"], info)
