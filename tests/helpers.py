"""Helpers that many test files use."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from xpcnn import backend
from xpcnn.data import load_dataset
from xpcnn.testing import assert_close

__all__ = ["assert_close", "load_script", "read_few", "to_device"]


def to_device(device: backend.Device, *arrays: Any, dtype: Any = None) -> list[Any]:
    """Return the arrays on a device; a None, such as an absent bias, stays None."""
    return [None if array is None else device.asarray(array, dtype) for array in arrays]


def read_few(patch: pytest.MonkeyPatch, train: int, test: int | None = None) -> None:
    """Let the data sets known by name have their first images only, `train` in each part, or `test` in the test part.

    An epoch of them is a blink.
    """

    def load(name: str, split: str = "train", data_dir: Any = None) -> Any:
        count = train if split == "train" or test is None else test
        return load_dataset(name, split, data_dir).subset(slice(count))

    patch.setattr("xpcnn.data.sources.load_dataset", load)


def load_script(name: str) -> ModuleType:
    """Import a file of `scripts/`, which is not a package, and the files there that it imports."""
    folder = Path(__file__).parents[1] / "scripts"
    if str(folder) not in sys.path:
        sys.path.append(str(folder))  # the last, as there is a fuzz.py in it
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
