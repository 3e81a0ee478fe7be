"""The machine of a benchmark: which kernels each library uses, how to hold all of them to AVX2, and peak memory.

Most laptops have AVX2 but no AVX-512. `benchmark.py --laptop` measures on a server what they would.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import numpy as np
from threadpoolctl import threadpool_info


def avx2_environment() -> dict[str, str]:
    """Return the environment variables that hold NumPy, its OpenBLAS and PyTorch to AVX2.

    Each library reads its own when it is loaded. onnxruntime has none.
    """
    wider = [name for name in _numpy_kernels() if name.startswith("AVX512") or name == "X86_V4"]
    return {
        "NPY_DISABLE_CPU_FEATURES": " ".join(wider),
        "OPENBLAS_CORETYPE": "Haswell",
        "ATEN_CPU_CAPABILITY": "avx2",  # PyTorch's own kernels
        "ONEDNN_MAX_CPU_ISA": "AVX2",  # its convolutions
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",  # its products
    }


def hold_to_avx2() -> None:
    """Start this program again in `avx2_environment`, if it does not run in it already."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        raise SystemExit(f"benchmark: --laptop is for processors with AVX2, this one is {platform.machine()}")
    environment = avx2_environment()
    if any(os.environ.get(name) != value for name, value in environment.items()):
        # A child process, as Windows cannot replace a process by another one.
        command = [sys.executable, *sys.orig_argv[1:]]
        raise SystemExit(subprocess.run(command, env={**os.environ, **environment}, check=False).returncode)


def kernels() -> dict[str, str]:
    """Return which instructions each library uses, as the library itself says."""
    import torch

    blas = [lib for lib in threadpool_info() if lib["user_api"] == "blas"]
    features = _numpy_features()
    return {
        "BLAS": ", ".join(f"{lib['internal_api']} {lib.get('architecture', '')}" for lib in blas) or "unknown",
        "NumPy kernels": " ".join(name for name in _numpy_kernels() if features[name]) or "baseline",
        "PyTorch kernels": torch.backends.cpu.get_cpu_capability(),
        "oneDNN kernels": _onednn_kernels(),
    }


def processor() -> str:
    """Return the processor's name where the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def peak_resident() -> float:
    """Return the peak of this process's resident set in MiB."""
    try:
        # Unlike getrusage's figure, this one does not begin with the peak of the process that started this one.
        with open("/proc/self/status", encoding="utf-8") as file:  # noqa: PTH123
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024
    except (OSError, StopIteration):
        import resource  # which Windows does not have

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << (20 if sys.platform == "darwin" else 10))


def _numpy_kernels() -> list[str]:
    """Return the names of all kernels that this NumPy chooses from when it is imported."""
    return list(np._core._multiarray_umath.__cpu_dispatch__)


def _numpy_features() -> dict[str, bool]:
    return dict(np._core._multiarray_umath.__cpu_features__)


def _onednn_kernels() -> str:
    """Return what oneDNN says when it computes something, which it writes to standard output."""
    program = "import torch; torch.nn.functional.conv2d(torch.zeros(8, 16, 20, 20), torch.zeros(16, 16, 3, 3))"
    command = [sys.executable, "-c", program]
    environment = {**os.environ, "ONEDNN_VERBOSE": "1"}
    said = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    return next((line.partition("isa:")[2] for line in said.splitlines() if ",cpu,isa:" in line), "unknown")
