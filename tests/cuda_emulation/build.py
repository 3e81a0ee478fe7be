"""Builds the emulation's libraries and headers with the host's compiler, and keeps them in the user's cache."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path

from .redirect import undefined

HERE = Path(__file__).parent
# Undefined symbols of cuBLAS and NVRTC are those of the engine, which is loaded before.
_FLAGS = ["-std=c++17", "-O3", "-march=native", "-fPIC", "-shared"]
# Kernels call `__asan_load4_noabort` and the like before each access, which are in engine.cpp.
KERNEL_FLAGS = [
    *("-std=c++17", "-O3", "-w", "-fPIC", "-fno-strict-aliasing", "-fvisibility=hidden", "-fno-gnu-unique"),
    *("-fsanitize=kernel-address", "--param=asan-instrumentation-with-call-threshold=0"),
    *("--param=asan-stack=0", "--param=asan-globals=0"),
]


def compiler() -> str:
    """Return the name of the C++ compiler."""
    return os.environ.get("CXX", "g++")


def is_gcc() -> bool:
    """Return whether the compiler is GCC, which takes the flags of kernels."""
    return "Free Software Foundation" in _version()


@functools.cache
def cuda_version() -> int:
    """Return the major version of CUDA that the CuPy that is installed was built for."""
    found = re.search(rb"libcublas\.so\.(\d+)", _cublas_module().read_bytes())
    assert found is not None
    return int(found[1])


def _cublas_module() -> Path:
    (path,) = Path(str(find_spec("cupy_backends").submodule_search_locations[0])).glob("cuda/libs/cublas*.so")
    return path


def sources() -> dict[str, list[str]]:
    """Return which files make which library, under the names that CuPy loads."""
    engine = ["engine", "memory", "launch", "fibers", "runtime", "graphs", "driver"]
    return {
        "libcuda.so.1": [f"{name}.cpp" for name in engine],
        f"libcublasLt.so.{cuda_version()}": [],  # is looked for, never called
        f"libcublas.so.{cuda_version()}": ["cublas.cpp", "stubs.cpp"],
        f"libnvrtc.so.{cuda_version()}": ["nvrtc.cpp"],
    }


def libraries() -> Path:
    """Return the folder of the libraries.

    Raises:
        RuntimeError: if the compiler fails.
    """
    return _cached("libraries", [*HERE.glob("*.cpp"), *HERE.glob("*.h"), *HERE.glob("*.py")], _build_libraries)


def headers() -> Path:
    """Return the folder of what kernels are compiled with, in `include`, and of compiled kernels.

    Raises:
        RuntimeError: if the compiler fails.
    """
    sources = [HERE / "nvrtc.cpp", *(path for path in (HERE / "include").rglob("*") if path.is_file())]
    return _cached("kernels", sources, _build_headers)


def _cached(name: str, sources: Iterable[Path], build: Callable[[Path], None]) -> Path:
    """Return the folder that `build` filled from these sources, now or earlier."""
    how = f"{_version()}{_FLAGS}{KERNEL_FLAGS}{cuda_version()}"
    content = b"".join(path.read_bytes() for path in sorted(sources)) + how.encode()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "xpcnn" / "cuda_emulation"
    folder = cache / f"{name}-{hashlib.sha256(content).hexdigest()[:16]}"
    if not folder.exists():
        part = folder.with_name(f"{folder.name}.{os.getpid()}")
        part.mkdir(parents=True)
        build(part)
        part.rename(folder)
    return folder


def _build_libraries(folder: Path) -> None:
    # What is not in cublas.cpp reports that it is not supported.
    stub = 'extern "C" __attribute__((weak)) int {}() {{ return 15; }}\n'
    names = [name for name in undefined(_cublas_module()) if name.startswith("cublas")]
    (folder / "stubs.cpp").write_text("".join(map(stub.format, names)))
    for name, files in sources().items():
        # CuPy's modules ask for symbols of a version that has the library's name.
        version = folder / "version.map"
        version.write_text(f"{name} {{ global: *; }};")
        paths = [str(place / file) for file in files for place in (HERE, folder) if (place / file).exists()]
        linking = [f"-Wl,-soname,{name}", f"-Wl,--version-script={version}", "-ldl", "-lpthread"]
        options = [*_FLAGS, f"-DCUDA_MAJOR={cuda_version()}"]
        _run([*options, "-o", str(folder / name), "-x", "c++", *(paths or [os.devnull]), *linking])


def _build_headers(folder: Path) -> None:
    shutil.copytree(HERE / "include", folder / "include")
    # Compiled once, not for each kernel. GCC takes it only for the same options.
    header = str(folder / "include" / "device.h")
    _run([*KERNEL_FLAGS, "-x", "c++-header", header, "-o", header + ".gch"])


def _run(options: list[str]) -> None:
    done = subprocess.run([compiler(), *options], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{compiler()} failed:\n{done.stderr}")


@functools.cache
def _version() -> str:
    """Return what the compiler says of itself and of this processor."""
    questions = (["--version"], ["-march=native", "-Q", "--help=target"])
    return "".join(
        subprocess.run([compiler(), *q], capture_output=True, text=True, check=True).stdout for q in questions
    )
