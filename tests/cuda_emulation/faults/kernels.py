"""Faults within kernels, and of their launch."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import WRONG, caught_by, equal

INDEX = "int i = blockIdx.x * blockDim.x + threadIdx.x;"


def kernel(cp: Any, text: str) -> Any:
    """Return the kernel with this text."""
    return cp.RawKernel(f'extern "C" __global__ void planted({text}', "planted")


@caught_by("writes 4 bytes at byte 400 of an array of 400 bytes")
def a_write_beyond_the_end(cp: Any, planted: bool, patch: Any) -> None:
    x = cp.zeros(100, np.float32)
    kernel(cp, f"float* x, int n) {{ {INDEX} if (i <= n) x[i] = 1; }}")(
        (1,), (128,), (x, np.int32(100 - (not planted)))
    )
    equal(x, np.ones(100))


@caught_by("reads 4 bytes at byte 400 of an array of 400 bytes")
def a_read_beyond_the_end(cp: Any, planted: bool, patch: Any) -> None:
    x, y = cp.ones(100 if planted else 101, np.float32), cp.zeros(100, np.float32)
    kernel(cp, f"const float* x, float* y) {{ {INDEX} y[i] = x[i + 1] * 0 + x[i]; }}")((1,), (100,), (x, y))
    equal(y, np.ones(100))


@caught_by("reads 4 bytes at")
def a_read_before_the_start(cp: Any, planted: bool, patch: Any) -> None:
    x, y = cp.ones(100, np.float32), cp.zeros(100, np.float32)
    source = x if planted else x[1:]
    kernel(cp, f"const float* x, float* y, int n) {{ {INDEX} if (i < n) y[i] = x[i - 1]; }}")(
        (1,), (128,), (source, y, np.int32(99))
    )
    equal(y[:99], np.ones(99))


@caught_by("writes 4 bytes at byte 400")
def a_grid_that_is_too_large(cp: Any, planted: bool, patch: Any) -> None:
    x = cp.zeros(100, np.float32)
    kernel(cp, f"float* x) {{ {INDEX} x[i] = 1; }}")((5 if planted else 4,), (25,), (x,))
    equal(x, np.ones(100))


@caught_by(WRONG)
def a_grid_that_is_too_small(cp: Any, planted: bool, patch: Any) -> None:
    x = cp.empty(100, np.float32)
    kernel(cp, f"float* x) {{ {INDEX} x[i] = 1; }}")((3 if planted else 4,), (25,), (x,))
    equal(x, np.ones(100))


@caught_by("invalid argument")
def a_block_of_more_threads_than_there_can_be(cp: Any, planted: bool, patch: Any) -> None:
    x = cp.zeros(1200, np.float32)
    blocks, threads = (1, 1200) if planted else (2, 600)
    kernel(cp, f"float* x) {{ {INDEX} x[i] = 1; }}")((blocks,), (threads,), (x,))
    equal(x, np.ones(1200))


REVERSE = """const float* x, float* y) {
    __shared__ float copy[64];
    copy[threadIdx.x] = x[threadIdx.x];
    WAIT
    y[threadIdx.x] = copy[63 - threadIdx.x];
}"""


@caught_by(WRONG)
def no_syncthreads_after_shared_memory_is_filled(cp: Any, planted: bool, patch: Any) -> None:
    x, y = cp.arange(64, dtype=np.float32), cp.zeros(64, np.float32)
    kernel(cp, REVERSE.replace("WAIT", "" if planted else "__syncthreads();"))((1,), (64,), (x, y))
    equal(y, np.arange(64)[::-1])


SUM = """const float* x, float* y) {
    extern __shared__ float part[];
    part[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    for (int n = 32; n > 0; n /= 2) {
        if (threadIdx.x < n) part[threadIdx.x] += part[threadIdx.x + n];
        WAIT
    }
    if (threadIdx.x == 0) y[0] = part[0];
}"""


@caught_by(WRONG)
def no_syncthreads_between_the_rounds_of_a_sum(cp: Any, planted: bool, patch: Any) -> None:
    x, y = cp.arange(64, dtype=np.float32), cp.zeros(1, np.float32)
    text = SUM.replace("WAIT", "" if planted else "__syncthreads();")
    kernel(cp, text)((1,), (64,), (x, y), shared_mem=256)
    equal(y, [np.arange(64).sum()])


@caught_by("reads|writes")
def too_little_shared_memory_asked_for(cp: Any, planted: bool, patch: Any) -> None:
    x, y = cp.arange(64, dtype=np.float32), cp.zeros(1, np.float32)
    kernel(cp, SUM.replace("WAIT", "__syncthreads();"))((1,), (64,), (x, y), shared_mem=128 if planted else 256)
    equal(y, [np.arange(64).sum()])


@caught_by(WRONG)
def shared_memory_taken_for_zero(cp: Any, planted: bool, patch: Any) -> None:
    y = cp.zeros(1, np.float32)
    start = "" if planted else "if (threadIdx.x == 0) total = 0; __syncthreads();"
    text = f"float* y) {{ __shared__ float total; {start} atomicAdd(&total, 1.0f); __syncthreads(); y[0] = total; }}"
    kernel(cp, text)((1,), (64,), (y,))
    equal(y, [64])


@caught_by(WRONG)
def threads_that_count_on_running_in_turn(cp: Any, planted: bool, patch: Any) -> None:
    x = cp.ones(64, np.float32)
    each, one = (
        "x[threadIdx.x + 1] += x[threadIdx.x];",
        "if (threadIdx.x == 0) for (int i = 0; i < 63; i++) x[i + 1] += x[i];",
    )
    kernel(cp, f"float* x) {{ {each if planted else one} }}")((1,), (63,), (x,))
    equal(x, np.arange(1, 65))


@caught_by(WRONG)
def blocks_that_count_on_running_in_turn(cp: Any, planted: bool, patch: Any) -> None:
    x = cp.ones(64, np.float32)
    each, one = (
        "x[blockIdx.x + 1] += x[blockIdx.x];",
        "if (blockIdx.x == 0) for (int i = 0; i < 63; i++) x[i + 1] += x[i];",
    )
    kernel(cp, f"float* x) {{ {each if planted else one} }}")((63,), (1,), (x,))
    equal(x, np.arange(1, 65))


@caught_by(WRONG)
def a_kernel_in_place_that_reads_what_it_has_written(cp: Any, planted: bool, patch: Any) -> None:
    x = cp.arange(65, dtype=np.float32)
    y = x if planted else cp.empty(65, np.float32)
    kernel(cp, "const float* x, float* y) { y[threadIdx.x] = x[threadIdx.x + 1]; }")((1,), (64,), (x, y))
    equal(y[:64], np.arange(1, 65))


@caught_by(WRONG)
def a_number_of_another_type_than_the_parameter(cp: Any, planted: bool, patch: Any) -> None:
    x = cp.zeros(64, np.float32)
    value = 2.5 if planted else np.float32(2.5)  # CuPy passes Python's number in 8 bytes
    kernel(cp, "float* x, float value) { x[threadIdx.x] = value; }")((1,), (64,), (x, value))
    equal(x, np.full(64, 2.5))


@caught_by("misaligned address")
def an_address_that_is_no_multiple_of_the_type(cp: Any, planted: bool, patch: Any) -> None:
    x = cp.zeros(65, np.int8)
    part = x[1:] if planted else x[:-1]
    kernel(cp, "int* x) { x[threadIdx.x] = 1; }")((1,), (16,), (part,))
    equal(part[::4], np.ones(16))


@caught_by("reads 8 bytes at memory that is not the device's")
def the_address_of_an_array_of_the_host(cp: Any, planted: bool, patch: Any) -> None:
    host = np.arange(64.0)
    x, y = cp.asarray(host), cp.zeros(64)
    address = host.ctypes.data if planted else x.data.ptr
    kernel(cp, "const double* x, double* y) { y[threadIdx.x] = x[threadIdx.x]; }")((1,), (64,), (np.uint64(address), y))
    equal(y, host)


@caught_by("reads 4 bytes at memory")
def a_null_pointer(cp: Any, planted: bool, patch: Any) -> None:
    x, y = cp.ones(64, np.float32), cp.zeros(64, np.float32)
    address = np.uint64(0 if planted else x.data.ptr)
    kernel(cp, "const float* x, float* y) { y[threadIdx.x] = x[threadIdx.x]; }")((1,), (64,), (address, y))
    equal(y, np.ones(64))
