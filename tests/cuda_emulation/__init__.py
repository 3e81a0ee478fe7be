"""CUDA emulated on the CPU, beneath the real CuPy; see README.md.

`install()` builds the libraries that stand in for NVIDIA's, loads them, and makes CuPy use them. It has to run before
CuPy is imported.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from .redirect import redirect_runtime, undefined

HERE = Path(__file__).parent
# Which files make which library, under the names that CuPy loads.
LIBRARIES = {
    "libcuda.so.1": ["engine.cpp", "runtime.cpp", "driver.cpp", "fibers.cpp"],
    "libcublasLt.so.12": [],  # is looked for, never called
    "libcublas.so.12": ["cublas.cpp", "stubs.cpp"],
    "libnvrtc.so.12": ["nvrtc.cpp"],
}
# Undefined symbols of cuBLAS and NVRTC are those of the engine, which is loaded before.
FLAGS = ["-std=c++17", "-O2", "-fPIC", "-shared"]


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
        )
    ]


class Emulation:
    """The emulation's own controls."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def seed(self, seed: int) -> None:
        """Choose the order in which streams, blocks and threads run from now on."""
        self._library.emu_seed(ctypes.c_uint64(seed))

    def counts(self) -> dict[str, int]:
        """Return how many calls of each kind there were."""
        counts = Counts()
        self._library.emu_counts(ctypes.byref(counts))
        return {name: getattr(counts, name) for name, _ in counts._fields_}

    def order_faults(self, allocation: int = -1, launch: int = -1, call: int = -1) -> None:
        """Make an allocation, a launch, or any call fail after so many that succeed; -1 for never.

        The last takes the device away: all later calls fail, too.
        """
        self._library.emu_order_faults(*(ctypes.c_int64(number) for number in (allocation, launch, call)))

    def clear_error(self) -> None:
        """Forget an error after which a GPU would be unusable."""
        self._library.emu_clear_error()


def unavailable() -> str:
    """Return why the emulation cannot run here, or "" if it can."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"it runs on Linux on x86-64, not on {sys.platform} on {platform.machine()}"
    if shutil.which(_compiler()) is None:
        return f"there is no C++ compiler {_compiler()!r}"
    if find_spec("cupy") is None:
        return "CuPy is not installed: pip install cupy-cuda12x"
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
    folder = _build()
    os.environ["XPCNN_CUDA_COMPILER"] = _compiler()
    os.environ["XPCNN_CUDA_EMULATION"] = str(folder / "include")
    os.environ["CUPY_CACHE_DIR"] = str(folder / "kernels")
    os.environ["CUPY_ACCELERATORS"] = ""  # CUB's kernels are compiled into CuPy for GPUs only
    os.environ["CUPY_CACHE_IN_MEMORY"] = "0"
    library, *_ = (ctypes.CDLL(str(folder / name), ctypes.RTLD_GLOBAL) for name in LIBRARIES)
    redirect_runtime(library)
    import cupy

    # Each array has memory of its own, which is filled with NaN and out of bounds once it is freed.
    cupy.cuda.set_allocator(cupy.cuda.MemoryAsyncPool().malloc)
    emulation = Emulation(library)
    emulation.seed(seed)
    return emulation


def _compiler() -> str:
    return os.environ.get("CXX", "g++")


def _build() -> Path:
    """Return the folder of the libraries, built from these sources if they are not there yet."""
    sources = sorted(path for path in HERE.rglob("*") if path.suffix in (".cpp", ".cuh", ".h", ".py"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources) + _version().encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "xpcnn" / "cuda_emulation" / digest
    if folder.exists():
        return folder
    part = folder.with_name(f"{digest}.{os.getpid()}")
    shutil.copytree(HERE / "include", part / "include")
    (cublas,) = Path(str(find_spec("cupy_backends").submodule_search_locations[0])).glob("cuda/libs/cublas*.so")
    # What is not in cublas.cpp reports that it is not supported.
    stub = 'extern "C" __attribute__((weak)) int {}() {{ return 15; }}\n'
    (part / "stubs.cpp").write_text("".join(map(stub.format, (n for n in undefined(cublas) if n.startswith("cublas")))))
    for name, files in LIBRARIES.items():
        # CuPy's modules ask for symbols of a version that has the library's name.
        version = part / "version.map"
        paths = [str(folder / file) for file in files for folder in (HERE, part) if (folder / file).exists()]
        version.write_text(f"{name} {{ global: *; }};")
        linking = [f"-Wl,-soname,{name}", f"-Wl,--version-script={version}", "-ldl", "-lpthread"]
        _run([*FLAGS, "-o", str(part / name), "-x", "c++", *(paths or [os.devnull]), *linking])
    # Compiled once, not for each kernel. GCC takes it only for the same options.
    header = str(part / "include" / "device.h")
    _run(["-std=c++17", "-O1", "-w", "-fPIC", "-fno-strict-aliasing", "-fvisibility=hidden", "-fno-gnu-unique", "-x", "c++-header", header, "-o", header + ".gch"])
    part.rename(folder)
    return folder


def _run(options: list[str]) -> None:
    done = subprocess.run([_compiler(), *options], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{_compiler()} failed:\n{done.stderr}")


def _version() -> str:
    return subprocess.run([_compiler(), "--version"], capture_output=True, text=True, check=True).stdout
