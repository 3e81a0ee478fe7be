"""Matrix products by cuBLAS without CuPy, which refuses to compute them while a graph is captured (cupy#6290)."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import numpy as np

from .device import Array, DeviceFailedError, Namespace

_WORKSPACE = 32 << 20  # bytes, what NVIDIA advises for the largest GPUs
_KINDS = {"e": 2, "f": 0, "d": 1}  # cudaDataType: float16, float32, float64
_COMPUTE_32F, _COMPUTE_TF32, _COMPUTE_64F = 68, 77, 70  # cublasComputeType_t
_DEFAULT = -1  # the algorithm that cuBLAS chooses


class Cublas:
    """A handle of cuBLAS, with memory of its own to work in, on the GPU that is current.

    Args:
        xp: CuPy.
    """

    def __init__(self, xp: Namespace) -> None:
        self._xp, self._handle = xp, ctypes.c_void_p()
        major = xp.cuda.runtime.runtimeGetVersion() // 1000
        # CuPy has loaded it, from wherever it is, so the loader finds it by its name.
        xp.cuda.device.get_cublas_handle()
        name = f"cublas64_{major}.dll" if sys.platform == "win32" else f"libcublas.so.{major}"
        self._library = ctypes.CDLL(name)
        self._call("cublasCreate_v2", ctypes.byref(self._handle))
        self._workspace = xp.empty(_WORKSPACE, np.uint8)

    def __del__(self) -> None:
        if self._handle:
            self._library.cublasDestroy_v2(self._handle)

    def use(self, stream: Any) -> None:
        """Compute on a stream from now on."""
        self._call("cublasSetStream_v2", self._handle, ctypes.c_void_p(stream.ptr))
        # The one that cuBLAS allocates itself, which a change of the stream brings back, cannot be captured.
        memory = ctypes.c_void_p(self._workspace.data.ptr)
        self._call("cublasSetWorkspace_v2", self._handle, memory, ctypes.c_size_t(_WORKSPACE))

    def matmul(self, a: Array, b: Array, out: Array, *, tf32: bool) -> None:
        """Write `a @ b` to `out`; sums are of the dtype of `out`.

        Args:
            a, b: of one dtype, as in NumPy's `matmul`, with two axes or more.
            out: of the same dtype, or float32 if they are float16.
            tf32: whether float32 operands are rounded to TF32.
        """
        xp, axes = self._xp, out.shape[:-2]
        a, b = (xp.broadcast_to(x, (*axes, *x.shape[-2:])) for x in (a, b))
        if len(axes) > 1:
            for i in range(len(out)):
                self.matmul(a[i], b[i], out[i], tf32=tf32)
        elif not out.size:
            return
        elif not a.shape[-1]:
            out.fill(0)
        elif _by_rows(out):
            self._multiply(a, b, out, tf32)
        elif _by_rows(out.swapaxes(-1, -2)):
            self._multiply(b.swapaxes(-1, -2), a.swapaxes(-1, -2), out.swapaxes(-1, -2), tf32)
        else:
            product = xp.empty(out.shape, out.dtype)
            self._multiply(a, b, product, tf32)
            out[...] = product

    def _multiply(self, a: Array, b: Array, out: Array, tf32: bool) -> None:
        """Compute one product, or a batch of them at equal steps in memory."""
        (M, K), N, count = a.shape[-2:], b.shape[-1], out.shape[0] if out.ndim > 2 else 1
        # cuBLAS counts along columns first, so what it sees of each array is its transpose: outᵀ = bᵀ @ aᵀ.
        (a, turn_a, step_a), (b, turn_b, step_b) = for_cublas(a), for_cublas(b)
        scalar = ctypes.c_double if out.dtype.char == "d" else ctypes.c_float
        one, zero = scalar(1), scalar(0)
        compute = _COMPUTE_64F if out.dtype.char == "d" else _COMPUTE_TF32 if tf32 else _COMPUTE_32F
        self._call(
            "cublasGemmStridedBatchedEx",
            self._handle,
            *map(ctypes.c_int, (turn_b, turn_a, N, M, K)),
            ctypes.byref(one),
            *_operand(b, step_b),
            *_operand(a, step_a),
            ctypes.byref(zero),
            *_operand(out, _step(out)),
            *map(ctypes.c_int, (count, compute, _DEFAULT)),
        )

    def _call(self, name: str, *arguments: Any) -> None:
        if status := getattr(self._library, name)(*arguments):
            raise DeviceFailedError(f"the GPU failed: {name} returned {status}")


def for_cublas(x: Array) -> tuple[Array, int, int]:
    """Return `x (..., rows, columns)`, copied if it has to be, whether cuBLAS transposes it, and its leading step.

    cuBLAS does not have to transpose what lies in memory row by row, as it takes rows for columns.
    """
    for turn, matrix in enumerate((x, x.swapaxes(-1, -2))):
        if _by_rows(matrix):
            return x, turn, _step(matrix)
    return x.copy(), 0, x.shape[-1]


def _by_rows(x: Array) -> bool:
    """Return whether each row of `x (..., rows, columns)` is contiguous, and rows do not overlap."""
    columns = x.shape[-1]
    return bool(columns == 1 or x.strides[-1] == x.itemsize) and _step(x) >= columns


def _step(x: Array) -> int:
    """Return the step from one row of `x (..., rows, columns)` to the next, in elements."""
    rows, columns = x.shape[-2:]
    return int(x.strides[-2] // x.itemsize if rows > 1 else columns)


def _operand(x: Array, step: int) -> tuple[Any, ...]:
    """Return the arguments that describe an operand: address, type, leading step, and the step between matrices."""
    between = x.strides[0] // x.itemsize if x.ndim > 2 else 0
    kind = _KINDS[x.dtype.char]
    return ctypes.c_void_p(x.data.ptr), ctypes.c_int(kind), ctypes.c_int(step), ctypes.c_longlong(between)
