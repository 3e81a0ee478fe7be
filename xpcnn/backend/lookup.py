"""Look up devices by name, and list those that answer."""

from __future__ import annotations

import functools
import warnings
from typing import Any

from .cpu import CPU
from .cuda import cuda_device, device_count
from .device import Device, DeviceUnavailableError, device_or_none

_ON_CUDA = (2, 13)  # DLPack's numbers for the memory of a CUDA GPU, and that which it shares with the CPU


def device(name: str | Device = "auto") -> Device:
    """Return a device by name.

    Args:
        name: `"cpu"`, `"cuda"` (the first GPU), `"cuda:1"`, or `"auto"`: the first GPU if it answers, else the CPU. If
            CuPy is installed and no GPU answers, a warning says why, once per process. A `Device` is returned as it is.
            With several GPUs, the one asked for last is CuPy's current one: see `Device.use`.

    Raises:
        DeviceUnavailableError: if the GPU does not answer.
        ValueError: if the name is none of these.
    """
    found = name if isinstance(name, Device) else _device_named(name)
    found.use()
    return found


def device_of_process(name: str, index: int) -> Device:
    """Return the device of one of several processes on a machine: a GPU of its own, else the CPU.

    Args:
        name: `"auto"`, `"cpu"` or `"cuda"`.
        index: the process's number on this machine. Where a batch system shows each process fewer GPUs than there are
            processes, it counts modulo their number.

    Raises:
        DeviceUnavailableError: if the GPU does not answer.
        ValueError: if the name is none of these.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f'several processes take "auto", "cpu" or "cuda", each a GPU of its own, got {name!r}')
    if name == "cpu" or (name == "auto" and device("auto").on_host):
        return CPU
    cuda_device(0)  # raises where there is none
    return device(f"cuda:{index % device_count()}")


def available_devices() -> tuple[list[Device], str]:
    """Return the devices that answer, the CPU first, and the reason if a GPU does not, or an empty string."""
    devices: list[Device] = [CPU]
    try:
        devices.append(cuda_device(0))
        devices += [cuda_device(index) for index in range(1, device_count())]
    except DeviceUnavailableError as error:
        return devices, str(error)
    return devices, ""


def imported(x: Any) -> Any:
    """Return an array of another library, such as PyTorch, as one of NumPy or CuPy in the same memory, by DLPack.

    Arrays of the two come back as they are, and so does everything that is no array. They go to other libraries in the
    same way: `torch.from_dlpack(y)`.

    Raises:
        TypeError: if it cannot be passed on, such as a tensor that requires a gradient, or bfloat16.
        DeviceUnavailableError: if it is on a GPU, and CuPy or the GPU does not answer.
    """
    if device_or_none(x) is not None or not hasattr(x, "__dlpack__"):
        return x
    kind, index = x.__dlpack_device__()
    library = (cuda_device(index) if kind in _ON_CUDA else CPU).xp
    try:
        return library.from_dlpack(x)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise TypeError(f"{type(x).__name__} cannot be taken as an array by DLPack: {error}") from error


def _device_named(name: str) -> Device:
    if name == "auto":
        return _first_device()
    if name == "cpu":
        return CPU
    kind, _, index = str(name).partition(":")
    if kind == "cuda" and (index.isdecimal() or name == "cuda"):
        return cuda_device(int(index or 0))
    raise ValueError(f'unknown device {name!r}: expected "cpu", "cuda", "cuda:<number>" or "auto"')


@functools.cache
def _first_device() -> Device:
    try:
        return cuda_device(0)
    except DeviceUnavailableError as error:
        cause = error.__cause__
        if not (isinstance(cause, ModuleNotFoundError) and cause.name == "cupy"):  # CuPy is installed
            warnings.warn(f"using the CPU: {error}", stacklevel=4)
        return CPU
