"""Convolutional networks written once for NumPy and CuPy."""

from . import data, functional, models, nn, optim, training
from .backend import Device, DeviceUnavailableError, available_devices, device
from .data import Dataset, Loader
from .random import manual_seed
from .training import Trainer

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
    "manual_seed",
    "models",
    "nn",
    "optim",
    "training",
]
