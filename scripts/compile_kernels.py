"""Compile every kernel seen by a run on emulated CUDA with NVIDIA's own compiler, for GPUs that need not be there.

    python -m pip install nvidia-cuda-nvrtc-cu12 nvidia-cuda-runtime-cu12
    XPCNN_CUDA=emulated pytest
    python scripts/compile_kernels.py

2026-11-21, NVRTC 12.9.86, sources of CuPy 14.2: 756 kernels for sm_80 and sm_90, none refused.

The host's compiler, which the emulation uses, takes names and types that NVIDIA's does not, and the other way round.
The sources are in the emulation's cache; see tests/cuda_emulation/README.md.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))


def folder_of(package: str) -> Path:
    """Return the folder of an installed package.

    Raises:
        ModuleNotFoundError: if it is not installed.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(package)
    return Path(spec.submodule_search_locations[0])


@cache
def nvrtc() -> ctypes.CDLL:
    """Return NVIDIA's run-time compiler."""
    return ctypes.CDLL(str(next((folder_of("nvidia.cuda_nvrtc") / "lib").glob("libnvrtc.so.1?"))))


def compile_source(path: Path, architectures: list[str]) -> str:
    """Compile one source, and return what the compiler objects to, or ""."""
    text = path.read_text()
    lines = text.splitlines()
    recorded = [line[10:] for line in lines if line.startswith("// option ")]
    # Where CuPy's and CUDA's headers are on this machine.
    options = [option for option in recorded if not option.startswith(("-arch", "-I"))]
    cupy = folder_of("cupy") / "_core" / "include"
    headers = (cupy, *(cupy / "cupy" / "_cccl").iterdir(), folder_of("nvidia.cuda_runtime") / "include")
    options += [f"-I{folder}" for folder in headers]
    for architecture in architectures:
        program, size = ctypes.c_void_p(), ctypes.c_size_t()
        nvrtc().nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"kernel.cu", 0, None, None)
        for line in lines:
            if line.startswith("// expression "):
                nvrtc().nvrtcAddNameExpression(program, line[14:].encode())
        words = [option.encode() for option in [*options, f"-arch={architecture}"]]
        status = nvrtc().nvrtcCompileProgram(program, len(words), (ctypes.c_char_p * len(words))(*words))
        nvrtc().nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        nvrtc().nvrtcGetProgramLog(program, log)
        nvrtc().nvrtcDestroyProgram(ctypes.byref(program))
        if status:
            return f"{path} for {architecture}: {log.value.decode()}"
    return ""


def main() -> int:
    """Compile the sources, print how many there were, and return 1 if the compiler refuses one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sources", type=Path, help="folder of the sources (that of the emulation)")
    parser.add_argument("--architectures", default="sm_80,sm_90", help="kinds of GPU (sm_80,sm_90)")
    parser.add_argument("--since", type=Path, metavar="FILE", help="sources used after this file was changed (all)")
    parser.add_argument("--only", default="", metavar="TEXT", help="sources that contain this text, such as xpcnn_")
    args = parser.parse_args()
    try:
        nvrtc(), folder_of("nvidia.cuda_runtime"), folder_of("cupy")
    except ModuleNotFoundError as error:
        print(f"compile_kernels: {error} is not installed; see {__file__}", file=sys.stderr)
        return 2
    if args.sources is None:
        from cuda_emulation import build

        args.sources = build.headers() / "sources"
    since = args.since.stat().st_mtime if args.since is not None else 0
    used = [path for path in sorted(args.sources.glob("*.cu")) if path.stat().st_mtime >= since]
    paths = [path for path in used if args.only in path.read_text()]
    if not paths:
        print(f"compile_kernels: no sources in {args.sources}: run XPCNN_CUDA=emulated pytest before", file=sys.stderr)
        return 2
    architectures = args.architectures.split(",")
    started = time.perf_counter()
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        refused = [log for log in pool.map(partial(compile_source, architectures=architectures), paths) if log]
    for log in refused:
        print(log)
    print(
        f"{len(paths)} kernels for {' and '.join(architectures)}: {len(refused)} refused, "
        f"{time.perf_counter() - started:.0f} s"
    )
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
