"""Faults of memory: what was never written, freed, or belongs to another array."""

from __future__ import annotations

from typing import Any

import numpy as np

from xpcnn.nn import Parameter
from xpcnn.optim import SGD

from . import WRONG, caught_by, equal
from .kernels import kernel


@caught_by(WRONG)
def memory_that_was_never_written(cp: Any, planted: bool, patch: Any) -> None:
    x = (cp.empty if planted else cp.zeros)(100, np.float32)
    x += 1
    equal(x, np.ones(100))


@caught_by("reads 4 bytes at")
def indices_that_were_never_written(cp: Any, planted: bool, patch: Any) -> None:
    places = (cp.empty if planted else cp.zeros)(64, np.int32)
    x, y = cp.ones(64, np.float32), cp.zeros(64, np.float32)
    kernel(cp, "const float* x, const int* at, float* y) { y[threadIdx.x] = x[at[threadIdx.x]]; }")(
        (1,), (64,), (x, places, y)
    )
    equal(y, np.ones(64))


@caught_by("which was freed")
def a_pointer_kept_longer_than_its_array(cp: Any, planted: bool, patch: Any) -> None:
    x, y = cp.ones(64, np.float32), cp.zeros(64, np.float32)
    address = np.uint64(x.data.ptr)
    if planted:
        del x
    kernel(cp, "const float* x, float* y) { y[threadIdx.x] = x[threadIdx.x]; }")((1,), (64,), (address, y))
    equal(y, np.ones(64))


@caught_by("freed twice|invalid argument")
def memory_freed_twice(cp: Any, planted: bool, patch: Any) -> None:
    stream = cp.cuda.Stream()
    address = cp.cuda.runtime.mallocAsync(256, stream.ptr)
    cp.cuda.runtime.freeAsync(address, stream.ptr)
    if planted:
        cp.cuda.runtime.freeAsync(address, stream.ptr)
    stream.synchronize()


@caught_by("invalid argument")
def a_copy_of_more_bytes_than_there_are(cp: Any, planted: bool, patch: Any) -> None:
    x, y = cp.ones(100), cp.zeros(100)
    y.data.copy_from_device(x.data, 808 if planted else 800)
    equal(y, np.ones(100))


@caught_by("invalid argument")
def a_fill_of_more_bytes_than_there_are(cp: Any, planted: bool, patch: Any) -> None:
    x = cp.ones(100)
    x.data.memset_async(0, 808 if planted else 800)
    equal(x, np.zeros(100))


@caught_by("reads 4 bytes at byte")
def a_strided_view_that_leaves_its_array(cp: Any, planted: bool, patch: Any) -> None:
    x = cp.ones(64, np.float32)
    windows = cp.lib.stride_tricks.as_strided(x, (63 if planted else 62, 3), (4, 4))
    equal(windows.sum(axis=1), np.full(len(windows), 3))


@caught_by("a matrix product goes beyond byte 0 of an array of 256 bytes")
def a_product_of_more_than_the_array(cp: Any, planted: bool, patch: Any) -> None:
    x = cp.ones(64, np.float32)
    rows = cp.lib.stride_tricks.as_strided(x, (9 if planted else 8, 8), (32, 4))
    equal(rows @ cp.ones((8, 8), np.float32), np.full((len(rows), 8), 8))


@caught_by(WRONG)
def xpcnn_starts_momentum_from_memory_it_never_zeroed(cp: Any, planted: bool, patch: Any) -> None:
    if planted:
        patch.setattr(cp, "zeros", cp.empty)
    weight = Parameter(cp.ones(8, np.float32))
    optimizer = SGD([("weight", weight)], 0.5, momentum=0.5)
    weight.grad = cp.ones(8, np.float32)
    optimizer.step()
    equal(weight.data, np.full(8, 0.5))
