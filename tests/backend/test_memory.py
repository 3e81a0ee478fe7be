"""The pool of host memory: blocks come back when the last array in them is gone, and never before."""

import gc
from itertools import pairwise

import numpy as np
import pytest

from xpcnn.backend.memory import MemoryPool

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


def test_a_block_is_cut_for_smaller_ones_and_grows_together_again():
    pool = MemoryPool()
    before, block, after = (pool.empty((1 << 20,), np.uint8) for _ in range(3))
    place = address(block)
    del block
    halves = [pool.empty((1 << 19,), np.uint8) for _ in range(2)]
    assert sorted(address(half) for half in halves) == [place, place + (1 << 19)]
    del halves[:]
    assert address(pool.empty((1 << 20,), np.uint8)) == place
    assert before is not after  # kept until here, so that the block had no idle neighbour


@pytest.mark.parametrize("megabytes", [0.5, 100])  # cut from a slab, or a slab of its own
def test_blocks_begin_at_lines_of_the_cache(megabytes):
    pool = MemoryPool()
    arrays = [pool.empty((int(megabytes * (1 << 20)) - 100,), np.uint8) for _ in range(3)]
    assert {address(array) % 64 for array in arrays} == {0}


def test_no_two_arrays_share_memory(rng):
    """Whatever order they come and go in; and in the end each slab is whole again."""
    pool, arrays = MemoryPool(), {}
    for i in range(2000):
        if arrays and rng.random() < 0.5:
            name = rng.choice(list(arrays))
            assert (arrays.pop(name) == name % 251).all()
        else:
            arrays[i] = pool.empty((int(rng.integers(1 << 16, 1 << 21)),), np.uint8)
            arrays[i][...] = i % 251
    spans = sorted((address(array), array.nbytes) for array in arrays.values())
    assert all(place + size <= following for (place, size), (following, _) in pairwise(spans))
    arrays.clear()
    pool._collect()
    assert pool._used_bytes == 0
    assert sum(size * len(parts) for size, parts in pool._idle.items()) == pool._idle_bytes
    assert all(slab.size == size for size, parts in pool._idle.items() for slab, _ in parts)


def test_what_lies_idle_is_bounded():
    pool = MemoryPool()
    for megabytes in range(1, 200):  # a program that never asks for the same size twice
        pool.empty((megabytes, 1 << 20), np.uint8)
    pool._collect()
    assert pool._used_bytes == 0
    idle = sum(size * len(blocks) for size, blocks in pool._idle.items())
    assert idle == pool._idle_bytes < 500 << 20


def test_an_array_may_die_while_the_pool_is_at_work(monkeypatch):
    """As when the interpreter collects garbage in between: here, at every block that is taken back or cut."""
    pool = MemoryPool()
    dying = [pool.empty((1 << 20,), np.uint8) for _ in range(20)]
    for name in ("_add", "_remove"):
        original = getattr(MemoryPool, name)
        monkeypatch.setattr(MemoryPool, name, lambda *args, f=original: (dying and dying.pop(), f(*args))[1])
    for _ in range(10):
        pool.empty((1 << 18,), np.uint8)
    assert not dying
    pool._collect()
    assert pool._used_bytes == 0
    assert all(slab.size == size for size, parts in pool._idle.items() for slab, _ in parts)


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
