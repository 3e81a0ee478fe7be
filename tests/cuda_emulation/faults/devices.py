"""Faults of two devices."""

from __future__ import annotations

from typing import Any

import numpy as np

from xpcnn.backend import device as device_named
from xpcnn.backend.cuda import CudaDevice
from xpcnn.backend.device import Device

from . import caught_by, equal
from .kernels import kernel


@caught_by("was given memory of device 1")
def a_kernel_given_memory_of_the_other_device(cp: Any, planted: bool, patch: Any) -> None:
    with cp.cuda.Device(1 if planted else 0):
        x = cp.ones(64, np.float32)
    y = cp.zeros(64, np.float32)
    address = np.uint64(x.data.ptr)
    kernel(cp, "const float* x, float* y) { y[threadIdx.x] = x[threadIdx.x]; }")((1,), (64,), (address, y))
    equal(y, np.ones(64))


@caught_by("reads .* on device 1")
def pointers_to_the_other_device_in_memory(cp: Any, planted: bool, patch: Any) -> None:
    with cp.cuda.Device(1 if planted else 0):
        x = cp.ones(64, np.float32)
    table, y = cp.asarray([x.data.ptr], np.uint64), cp.zeros(64, np.float32)
    text = "float** table, float* y) { y[threadIdx.x] = table[0][threadIdx.x]; }"
    kernel(cp, text)((1,), (64,), (table, y))
    equal(y, np.ones(64))


@caught_by("CUDA_ERROR_INVALID_HANDLE")
def a_launch_on_a_stream_of_the_other_device(cp: Any, planted: bool, patch: Any) -> None:
    with cp.cuda.Device(1 if planted else 0):
        stream = cp.cuda.Stream(non_blocking=True)
    x = cp.zeros(64, np.float32)
    cp.cuda.Device().synchronize()
    f = kernel(cp, "float* x) { x[threadIdx.x] = 1; }")
    f.compile()
    f.kernel.linear_launch(64, (x,), 0, 64, stream=stream)
    stream.synchronize()
    equal(x, np.ones(64))


@caught_by("not its device's")
def a_product_with_a_matrix_of_the_other_device(cp: Any, planted: bool, patch: Any) -> None:
    with cp.cuda.Device(1 if planted else 0):
        x = cp.ones((8, 8), np.float32)
    y, z = cp.ones((8, 8), np.float32), cp.zeros((8, 8), np.float32)
    one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
    sizes = (8, 8, 8, one.ctypes.data, x.data.ptr, 8, y.data.ptr, 8, zero.ctypes.data, z.data.ptr, 8)
    cp.cuda.cublas.sgemm(cp.cuda.device.get_cublas_handle(), 0, 0, *sizes)
    equal(z, np.full((8, 8), 8))


@caught_by("AssertionError|device")
def xpcnn_puts_an_array_on_the_current_device(cp: Any, planted: bool, patch: Any) -> None:
    second = device_named("cuda:1")
    if planted:
        patch.setattr(CudaDevice, "asarray", Device.asarray)
    cp.cuda.Device(0).use()
    x = second.asarray(np.ones(64, np.float32))
    assert x.device.id == 1
    with cp.cuda.Device(1):
        equal(x + 1, np.full(64, 2))


@caught_by("AssertionError|device")
def xpcnn_takes_memory_of_the_current_device(cp: Any, planted: bool, patch: Any) -> None:
    second = device_named("cuda:1")
    if planted:
        patch.setattr(CudaDevice, "empty", Device.empty)
    cp.cuda.Device(0).use()
    x = second.empty((64,), np.float32)
    with cp.cuda.Device(1):
        kernel(cp, "float* x) { x[threadIdx.x] = 1; }")((1,), (64,), (x,))
        equal(x, np.ones(64))
