"""The pool of host memory: blocks come back when the last array in them is gone, and never before."""

import gc

import numpy as np
import pytest

from xpcnn.memory import MemoryPool

LARGE = (300, 1000)


def address(array):
    return array.__array_interface__["data"][0]


@pytest.mark.parametrize(
    "look",
    [
        lambda array: array,
        lambda array: array[::3, 5:].T,
        lambda array: array.view(np.int32).reshape(-1)[7:9],
        lambda array: memoryview(array),
        lambda array: np.lib.stride_tricks.as_strided(array, (2, 2), (4, 4)),
    ],
    ids=["itself", "view", "view of a view", "buffer", "strided"],
)
def test_a_block_is_used_again_only_when_nothing_looks_into_it(look):
    pool = MemoryPool()
    array = pool.empty(LARGE, np.float32)
    place = address(array)
    array[...] = 7
    kept = look(array)
    del array
    other = pool.empty(LARGE, np.float32)
    other[...] = 3
    assert address(other) != place
    assert (np.asarray(kept) == np.asarray(look(np.full(LARGE, 7, np.float32)))).all()
    del kept
    gc.collect()
    assert address(pool.empty(LARGE, np.float32)) == place


def test_arrays_are_what_was_asked_for():
    pool = MemoryPool()
    for shape, dtype in [((), "f8"), ((3, 4), "f4"), ((0, 5), "f4"), (LARGE, "f8"), ((1 << 17,), np.uint8)]:
        array = pool.empty(shape, dtype)
        assert (array.shape, array.dtype) == (shape, np.dtype(dtype))
        assert array.flags.c_contiguous
        assert array.flags.writeable


def test_sizes_nearly_alike_share_a_block():
    pool = MemoryPool()
    place = address(pool.empty((1000, 100), np.float32))
    assert address(pool.empty((990, 100), np.float32)) == place
    assert address(pool.empty((500, 100), np.float32)) != place


def test_what_lies_idle_is_bounded():
    pool = MemoryPool()
    for megabytes in range(1, 200):  # a program that never asks for the same size twice
        pool.empty((megabytes, 1 << 20), np.uint8)
    assert pool._used_bytes == 0
    idle = sum(size * len(blocks) for size, blocks in pool._idle.items())
    assert idle == pool._idle_bytes < 500 << 20


def test_a_training_step_takes_no_fresh_memory_for_its_results():
    from xpcnn.backend import CPU
    from xpcnn.models import lenet5
    from xpcnn.nn import CrossEntropyLoss

    model, loss, images, labels = lenet5(), CrossEntropyLoss(), np.ones((64, 1, 28, 28), np.float32), np.arange(64) % 10

    def step():
        model.zero_grad()
        loss(model(images), labels)
        model.backward(loss.backward(), input_gradient=False)

    step()
    step()
    pool = CPU._memory
    before = pool._used_bytes + pool._idle_bytes
    for _ in range(5):
        step()
    assert pool._used_bytes + pool._idle_bytes == before
