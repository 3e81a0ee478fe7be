"""CUDA emulated on the CPU, beneath the real CuPy; see README.md.

`install()` builds the libraries that stand in for NVIDIA's, loads them, and makes CuPy use them. It has to run before
CuPy is imported.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from . import build
from .redirect import redirect_runtime

_OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation


class Counts(ctypes.Structure):
    """What the emulated devices were asked to do, in calls."""

    _fields_ = [
        (name, ctypes.c_int64)
        for name in (
            "launches",
            "products",
            "host_to_device",
            "device_to_host",
            "device_to_device",
            "fills",
            "allocations",
            "synchronisations",
            "graphs",
            "calls",  # those that can say that the device is gone
        )
    ]


class Emulation:
    """The emulation's own controls."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        library.emu_failure.restype = ctypes.c_char_p

    def seed(self, seed: int) -> None:
        """Choose the order in which streams, blocks and threads run from now on."""
        self._library.emu_seed(ctypes.c_uint64(seed))

    def counts(self) -> dict[str, int]:
        """Return how many calls of each kind there were."""
        counts = Counts()
        self._library.emu_counts(ctypes.byref(counts))
        return {name: getattr(counts, name) for name, _ in counts._fields_}

    @property
    def failure(self) -> str:
        """What went wrong on a device, in words that a GPU does not have; "" if nothing did."""
        return str(self._library.emu_failure().decode())

    @contextmanager
    def faults(self, allocation: int = -1, launch: int = -1, call: int = -1) -> Iterator[None]:
        """Within the block, make an allocation, a launch or any call fail after so many that succeed.

        `call` takes the device away: all later calls fail, too. After the block all is as before, which a GPU would
        need a new process for.
        """
        self._library.emu_order_faults(*(ctypes.c_int64(number) for number in (allocation, launch, call)))
        try:
            yield
        finally:
            self._library.emu_order_faults(*[ctypes.c_int64(-1)] * 3)
            self.recover()

    def finish(self) -> str:
        """Run all work that was put off, on all devices, and return what has gone wrong, or ""."""
        self._library.emu_finish()
        return self.failure

    def recover(self) -> None:
        """Forget what has gone wrong."""
        self._library.emu_recover()


def unavailable() -> str:
    """Return why the emulation cannot run here, or "" if it can."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"it runs on Linux on x86-64, not on {sys.platform} on {platform.machine()}"
    if shutil.which(build.compiler()) is None:
        return f"there is no C++ compiler {build.compiler()!r}"
    if not build.is_gcc():
        return f"the C++ compiler {build.compiler()!r} is not GCC"
    if find_spec("cupy") is None:
        return "CuPy is not installed: pip install cupy-cuda12x, or cupy-cuda13x"
    return ""


def install(seed: int = 0) -> Emulation:
    """Build and load the emulation, and make CuPy use it.

    Args:
        seed: see `Emulation.seed`.

    Raises:
        RuntimeError: if it cannot run here, or CuPy is imported already.
    """
    if reason := unavailable():
        raise RuntimeError(f"CUDA cannot be emulated: {reason}")
    if "cupy" in sys.modules:
        raise RuntimeError("CuPy is imported already")
    headers, libraries = build.headers(), build.libraries()
    os.environ["XPCNN_CUDA_COMPILER"] = build.compiler()
    os.environ["XPCNN_CUDA_FLAGS"] = " ".join(build.KERNEL_FLAGS)
    os.environ["XPCNN_CUDA_KERNELS"] = str(headers)
    os.environ["CUPY_CACHE_DIR"] = str(headers / "cache")
    os.environ["CUPY_ACCELERATORS"] = ""  # CUB's kernels are compiled into CuPy for GPUs only
    os.environ["CUPY_CACHE_IN_MEMORY"] = "0"
    library, *_ = (ctypes.CDLL(str(libraries / name), ctypes.RTLD_GLOBAL) for name in build.sources())
    redirect_runtime(library)
    import cupy
    from cupy.cuda.memory import OutOfMemoryError, malloc_async

    def allocate(size: int) -> Any:
        try:
            return malloc_async(size)
        except cupy.cuda.runtime.CUDARuntimeError as error:
            if error.status != _OUT_OF_MEMORY:
                raise
            free, total = cupy.cuda.Device().mem_info
            raise OutOfMemoryError(size, total - free, total) from None  # as CuPy's memory pools do

    # Each array has memory of its own, of exactly its size, which nobody may touch once it is freed.
    cupy.cuda.set_allocator(allocate)
    emulation = Emulation(library)
    emulation.seed(seed)
    return emulation
