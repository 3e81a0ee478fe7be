"""Batches copied to a GPU on a stream of their own, played by streams that put off their work as long as they may."""

from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from xpcnn.backend import CPU, batch_first, batch_last, register, to_host
from xpcnn.backend.cuda import CudaDevice


class Stream:
    """A queue of work, of which nothing is done before somebody waits for it."""

    def __init__(self, non_blocking: bool = False):
        self.queue: list[Callable[[], Any]] = []

    def run(self, until: "Event | None" = None) -> None:
        while self.queue and (until is None or not until.happened):
            self.queue.pop(0)()

    def record(self) -> "Event":
        event = Event(self)
        self.queue.append(event.happen)
        return event

    def wait_event(self, event: "Event") -> None:
        self.queue.append(event.synchronize)


class Event:
    def __init__(self, stream: Stream):
        self.stream, self.happened = stream, False

    def happen(self) -> None:
        self.happened = True

    def synchronize(self) -> None:
        self.stream.run(until=self)


class FakeArray(np.ndarray):
    """Memory on the device: written when its stream gets there, and given to the next array once it is dropped."""

    def set(self, host: np.ndarray, stream: Stream) -> None:
        stream.queue.append(lambda: np.copyto(self, host))


class FakeCuda:
    def __init__(self) -> None:
        self.main = Stream()
        self.pool: list[np.ndarray] = []
        self.pinned: list[np.ndarray] = []
        cuda = SimpleNamespace(
            Device=type("Device", (nullcontext,), {"mem_info": (0, 8 << 30)}),
            Stream=Stream,
            get_current_stream=lambda: self.main,
            alloc_pinned_memory=self.allocate_pinned,
        )
        self.xp = SimpleNamespace(cuda=cuda, empty=self.empty)

    def allocate_pinned(self, size: int) -> np.ndarray:
        self.pinned.append(np.empty(size + 100, np.int8))  # CuPy rounds up
        return self.pinned[-1]

    def empty(self, shape: tuple[int, ...], dtype: Any) -> FakeArray:
        if not self.pool:
            self.pool.append(np.empty(int(np.prod(shape)), dtype))
        return self.pool.pop().reshape(shape).view(FakeArray)


@pytest.fixture
def fake() -> FakeCuda:
    fake = FakeCuda()
    fake.device = CudaDevice(fake.xp, 0)
    register(FakeArray, lambda array: fake.device)
    return fake


def batches(count: int, shape: tuple[int, ...] = (3, 2, 4, 5)) -> list[tuple[np.ndarray, int]]:
    rng = np.random.default_rng(0)
    return [(batch_first(rng.normal(size=(*shape[1:], shape[0])).astype(np.float32)), i) for i in range(count)]


def test_every_batch_arrives_whole_whatever_is_put_off(fake):
    expected, seen = batches(7), []
    for images, label in fake.device.prefetch(iter(expected)):
        assert type(images) is FakeArray
        # The step reads its batch when the main stream gets to it; then the memory is the pool's again.
        fake.main.queue.append(lambda images=images, label=label: seen.append((np.array(images), label)))
        fake.pool.append(batch_last(images).view(np.ndarray).reshape(-1))
        assert len(fake.main.queue) > 1  # nobody waited for the step
    fake.main.run()
    assert [label for _, label in seen] == list(range(7))
    for (got, _), (want, _) in zip(seen, expected, strict=True):
        np.testing.assert_array_equal(got, want)


def test_the_next_copy_begins_before_a_batch_is_handed_out(fake):
    taken = []
    source = (taken.append(i) or batch for i, batch in enumerate(batches(5)))
    iterator = fake.device.prefetch(source)
    next(iterator)
    assert taken == [0, 1]
    assert len(fake.pinned) == 2


def test_two_buffers_serve_all_batches_and_grow_with_them(fake):
    sizes = [(3, 2, 4, 5), (3, 2, 4, 5), (2, 2, 4, 5), (3, 2, 4, 5), (6, 2, 4, 5)]
    source = [batches(1, shape)[0] for shape in sizes]
    found = []
    for images, _ in fake.device.prefetch(source):
        fake.main.queue.append(lambda images=images: found.append(np.array(images)))
        fake.pool.clear()
    fake.main.run()
    assert len(fake.pinned) == 3
    for got, (want, _) in zip(found, source, strict=True):
        np.testing.assert_array_equal(got, want)


def test_arrays_of_the_device_pass_as_they_are(fake):
    images = fake.device.empty((2, 3), np.float32)
    ((same, label),) = fake.device.prefetch([(images, 1)])
    assert same is images
    assert label == 1
    assert not fake.pinned


@pytest.mark.parametrize("memory", ["as the loader's", "NCHW", "sliced"])
def test_the_same_on_every_device(device, memory):
    source = batches(4, (5, 3, 6, 6))
    if memory == "NCHW":
        source = [(np.ascontiguousarray(images), label) for images, label in source]
    if memory == "sliced":
        source = [(images[::2, :, 1:], label) for images, label in source]
    found = list(device.prefetch(source))
    assert [label for _, label in found] == [0, 1, 2, 3]
    for (got, _), (want, _) in zip(found, source, strict=True):
        np.testing.assert_array_equal(to_host(got), want)


def test_the_cpu_copies_nothing():
    ((images, label),) = batches(1)
    ((same, _),) = CPU.prefetch([(images, label)])
    assert same is images
