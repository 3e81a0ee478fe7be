"""Devices and their array modules: the only package that knows whether an array is on the CPU or a GPU."""

from .cpu import CPU
from .cuda import failures_named
from .device import (
    CHAIN_WORK,
    ELEMENT_WORK,
    Array,
    Collectives,
    Device,
    DeviceFailedError,
    DeviceUnavailableError,
    HostArray,
    Namespace,
    Shape,
    array_namespace,
    blocks,
    chain,
    device_of,
    device_or_none,
    register,
    rounded,
    to_host,
)
from .layout import batch_first, batch_last
from .lookup import available_devices, device, imported
from .recording import Recording

__all__ = [
    "CHAIN_WORK",
    "CPU",
    "ELEMENT_WORK",
    "Array",
    "Collectives",
    "Device",
    "DeviceFailedError",
    "DeviceUnavailableError",
    "HostArray",
    "Namespace",
    "Recording",
    "Shape",
    "array_namespace",
    "available_devices",
    "batch_first",
    "batch_last",
    "blocks",
    "chain",
    "device",
    "device_of",
    "device_or_none",
    "failures_named",
    "imported",
    "register",
    "rounded",
    "to_host",
]
