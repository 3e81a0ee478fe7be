"""Convolutional networks written once for NumPy and CuPy."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import data, functional, models, nn, optim, training
    from .backend import Device, DeviceUnavailableError, available_devices, device
    from .data import Dataset, Loader
    from .random import manual_seed
    from .training import Trainer, load_torch, save_torch

__version__ = "0.1.0"

__all__ = [
    "Dataset",
    "Device",
    "DeviceUnavailableError",
    "Loader",
    "Trainer",
    "available_devices",
    "data",
    "device",
    "functional",
    "load_torch",
    "manual_seed",
    "models",
    "nn",
    "optim",
    "save_torch",
    "training",
]

_MODULES = {
    "Dataset": "data",
    "Device": "backend",
    "DeviceUnavailableError": "backend",
    "Loader": "data",
    "Trainer": "training",
    "available_devices": "backend",
    "device": "backend",
    "load_torch": "training",
    "manual_seed": "random",
    "save_torch": "training",
}


def __getattr__(name: str) -> Any:
    # Imported at first use, so that the command line can handle Ctrl-C while NumPy and all else are being imported.
    if name in _MODULES:
        return getattr(import_module(f".{_MODULES[name]}", __name__), name)
    if name in (*__all__, *_MODULES.values(), "onnx"):
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
