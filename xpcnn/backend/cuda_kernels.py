"""CUDA kernels of our own, for what takes several of CuPy's; compiled by CuPy when they are first used."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from .device import Array, HostArray, Namespace, Pair

_PIECES = 128  # that one launch joins: a kernel's arguments have to fit 4 KB
NUMBERS = 448  # that one launch writes, for the same reason
_LARGEST = 2**31 - 1  # elements that an int can count
_WINDOWS = ", ".join(
    f"int32 {name}" for name in ("KH", "KW", "rows", "cols", "images", "sh", "sw", "dh", "dw", "h0", "w0")
)


class Kernels:
    """The kernels, on whichever GPU is current.

    Args:
        xp: CuPy.
    """

    def __init__(self, xp: Namespace) -> None:
        self._xp = xp

    @cached_property
    def _copy_windows(self) -> Any:
        return self._xp.ElementwiseKernel(
            f"raw T x, int32 H, int32 W, int32 N, {_WINDOWS}, int32 image0",
            "T y",
            """
            int rest = i;
            int image = rest % images; rest /= images;
            int col = rest % cols; rest /= cols;
            int row = rest % rows; rest /= rows;
            int kw = rest % KW; rest /= KW;
            int kh = rest % KH;
            ptrdiff_t c = rest / KH;
            int h = h0 + row * sh + kh * dh, w = w0 + col * sw + kw * dw;
            y = h >= 0 && h < H && w >= 0 && w < W ? x[((c * H + h) * W + w) * N + image0 + image] : T(0);
            """,
            "xpcnn_copy_windows",
        )

    @cached_property
    def _add_windows(self) -> Any:
        return self._xp.ElementwiseKernel(
            f"raw T columns, int32 H, int32 W, {_WINDOWS}, bool to_zero",
            "T x",
            """
            ptrdiff_t rest = i;
            int image = rest % images; rest /= images;
            int w = rest % W - w0; rest /= W;
            int h = rest % H - h0;
            ptrdiff_t c = rest / H;
            T sum = 0;
            for (int kh = 0; kh < KH; kh++, h -= dh) {
                int row = h / sh;
                if (h < 0 || h % sh || row >= rows) continue;
                for (int kw = 0, from = w; kw < KW; kw++, from -= dw) {
                    int col = from / sw;
                    if (from < 0 || from % sw || col >= cols) continue;
                    sum += columns[((((c * KH + kh) * KW + kw) * rows + row) * cols + col) * images + image];
                }
            }
            x = to_zero ? sum : x + sum;
            """,
            "xpcnn_add_windows",
        )

    def copy_windows(self, x: Array, first: tuple[int, int, int], stride: Pair, dilation: Pair, columns: Array) -> bool:
        """See `Device.copy_windows`."""
        if columns.size > _LARGEST:
            return False
        self._copy_windows(x, *x.shape[1:], *columns.shape[1:], *stride, *dilation, *first, columns)
        return True

    def add_windows(self, columns: Array, first: Pair, stride: Pair, dilation: Pair, x: Array, to_zero: bool) -> None:
        """See `Device.add_windows`."""
        self._add_windows(columns, *x.shape[1:3], *columns.shape[1:], *stride, *dilation, *first, to_zero, x)

    @cached_property
    def _sums_and_dots(self) -> Any:
        return self._xp.ReductionKernel(
            "T x, T y",
            "T sum, T dot",
            "Pair<T>(x, x * y)",
            "a + b",
            "sum = a.sum, dot = a.dot",
            "Pair<T>(0, 0)",
            "xpcnn_sums_and_dots",
            "Pair<T>",
            preamble="""
            template <class T>
            struct Pair {
                T sum, dot;
                __device__ Pair() {}
                __device__ Pair(T sum, T dot) : sum(sum), dot(dot) {}
                __device__ Pair operator+(const Pair& other) const { return Pair(sum + other.sum, dot + other.dot); }
            };
            """,
        )

    def sums_and_dots(self, x: Array, y: Array) -> Array:
        """Return the sum of each row of `x (rows, length)`, and its dot product with the row of `y`, `(2, rows)`."""
        result = self._xp.empty((2, len(x)), x.dtype)
        self._sums_and_dots(x, y, *result, axis=1)
        return result

    @cached_property
    def _join(self) -> dict[int, Any]:
        return {
            size: self._xp.RawKernel(
                f"""
                struct Pieces {{ const {word}* from[{_PIECES}]; long long begin[{_PIECES} + 1]; }};
                extern "C" __global__ void xpcnn_join(const Pieces pieces, int count, {word}* to) {{
                    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
                    if (i >= pieces.begin[count]) return;
                    int low = 0, high = count;  // the piece is the last one that begins at i or before
                    while (high - low > 1) {{
                        int middle = (low + high) / 2;
                        if (pieces.begin[middle] <= i) low = middle; else high = middle;
                    }}
                    to[i] = pieces.from[low][i - pieces.begin[low]];
                }}
                """,
                "xpcnn_join",
            )
            for size, word in {4: "unsigned int", 8: "unsigned long long"}.items()
        }

    @cached_property
    def _write(self) -> Any:
        return self._xp.RawKernel(
            f"""
            struct Numbers {{ unsigned long long words[{NUMBERS}]; }};
            extern "C" __global__ void xpcnn_write(const Numbers numbers, unsigned long long* to) {{
                to[threadIdx.x] = numbers.words[threadIdx.x];
            }}
            """,
            "xpcnn_write",
        )

    def write_numbers(self, numbers: HostArray, to: Array) -> None:
        """Write `NUMBERS` words of 8 bytes to the GPU; they are arguments of the kernel, so that nothing is copied."""
        words = np.zeros((), [("words", np.uint64, NUMBERS)])
        words["words"] = numbers
        self._write((1,), (NUMBERS,), (words, to))

    def concatenate(self, arrays: Sequence[Array], out: Array) -> None:
        """See `Device.concatenate`; the addresses are arguments of the kernel, where CuPy copies them to the GPU."""
        done = 0
        for start in range(0, len(arrays), _PIECES):
            some = [self._xp.ascontiguousarray(array) for array in arrays[start : start + _PIECES]]
            ends = np.cumsum([array.size for array in some])
            pieces = np.zeros((), [("from", np.uint64, _PIECES), ("begin", np.int64, _PIECES + 1)])
            pieces["from"][: len(some)] = [array.data.ptr for array in some]
            pieces["begin"][1 : len(some) + 1] = ends
            if total := int(ends[-1]):
                part = out[done : done + total]
                self._join[out.itemsize](((total + 255) // 256,), (256,), (pieces, np.int32(len(some)), part))
            done += total
