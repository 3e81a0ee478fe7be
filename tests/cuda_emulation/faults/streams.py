"""Faults of streams, events and pinned memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from xpcnn.backend import device as device_named
from xpcnn.backend.cuda import _Copies

from . import WRONG, caught_by, equal


@caught_by(WRONG)
def no_wait_for_a_copy_on_another_stream(cp: Any, planted: bool, patch: Any) -> None:
    copies, x = cp.cuda.Stream(non_blocking=True), cp.zeros(100)
    cp.cuda.Device().synchronize()
    x.set(np.ones(100), copies)
    if not planted:
        cp.cuda.get_current_stream().wait_event(copies.record())
    equal(x + 1, np.full(100, 2.0))


@caught_by(WRONG)
def an_event_recorded_before_the_work(cp: Any, planted: bool, patch: Any) -> None:
    copies, x = cp.cuda.Stream(non_blocking=True), cp.zeros(100)
    cp.cuda.Device().synchronize()
    event = copies.record() if planted else None
    x.set(np.ones(100), copies)
    cp.cuda.get_current_stream().wait_event(event or copies.record())
    equal(x + 1, np.full(100, 2.0))


@caught_by(WRONG)
def a_non_blocking_stream_does_not_wait_for_the_default_stream(cp: Any, planted: bool, patch: Any) -> None:
    stream, x = cp.cuda.Stream(non_blocking=planted), cp.zeros(100)
    cp.cuda.Device().synchronize()
    x += 1
    with stream:
        y = x + 1
    stream.synchronize()
    equal(y, np.full(100, 2.0))


@caught_by(WRONG)
def a_pinned_result_read_before_it_is_there(cp: Any, planted: bool, patch: Any) -> None:
    x, stream = cp.ones(100), cp.cuda.Stream()
    host = np.frombuffer(cp.cuda.alloc_pinned_memory(x.nbytes), x.dtype)[: x.size]
    host[...] = 5
    x.get(stream, out=host, blocking=False)
    if not planted:
        stream.synchronize()
    equal(host, np.ones(100))


@caught_by(WRONG)
def a_pinned_buffer_filled_again_before_it_was_copied(cp: Any, planted: bool, patch: Any) -> None:
    stream, x = cp.cuda.Stream(), cp.empty(100)
    host = np.frombuffer(cp.cuda.alloc_pinned_memory(x.nbytes), x.dtype)[: x.size]
    host[...] = 5
    x.set(host, stream)
    if not planted:
        stream.synchronize()
    host[...] = 6
    equal(x, np.full(100, 5.0))


@caught_by("reads .* which was freed")
def an_array_dropped_while_another_stream_reads_it(cp: Any, planted: bool, patch: Any) -> None:
    other = cp.cuda.Stream(non_blocking=True)
    x = cp.ones(100)
    cp.cuda.Device().synchronize()
    with other:
        y = x + 1
    if not planted:
        cp.cuda.get_current_stream().wait_event(other.record())
    del x
    cp.cuda.get_current_stream().synchronize()
    other.synchronize()
    equal(y, np.full(100, 2.0))


@caught_by(WRONG)
def memory_written_by_another_stream_before_it_is_its_own(cp: Any, planted: bool, patch: Any) -> None:
    other = cp.cuda.Stream(non_blocking=True)
    x = cp.empty(100)  # in the order of the current stream
    if not planted:
        other.wait_event(cp.cuda.get_current_stream().record())
    with other:
        x.fill(1)
    other.synchronize()
    equal(x, np.ones(100))


def batches_arrive(cp: Any) -> None:
    """Assert that `prefetch` gives what it is given, with some work between."""
    # Sizes that are reused, for the memory of one batch to be that of another.
    images = [np.full((4, 3, 8, 8), i, np.float32) for i in range(8)]
    sums = [images.sum() * 2 for (images,) in device_named("cuda").prefetch([(x,) for x in images])]
    equal(cp.stack(sums), [2 * x.sum() for x in images])


@caught_by(WRONG)
def xpcnn_uses_a_batch_before_its_copy_is_complete(cp: Any, planted: bool, patch: Any) -> None:
    if planted:
        patch.setattr(_Copies, "end", lambda self, x, done, others: (x, *others))
    batches_arrive(cp)


@caught_by(WRONG)
def xpcnn_fills_a_pinned_buffer_before_it_was_copied(cp: Any, planted: bool, patch: Any) -> None:
    if planted:
        begin = _Copies.begin

        def hasty(self: Any, x: Any) -> Any:
            self._copied = [None, None]
            return begin(self, x)

        patch.setattr(_Copies, "begin", hasty)
    batches_arrive(cp)


@caught_by(WRONG)
def xpcnn_copies_into_memory_that_is_in_use(cp: Any, planted: bool, patch: Any) -> None:
    if planted:

        class Forgetful(cp.cuda.Stream):
            def wait_event(self, event: Any) -> None: ...

        patch.setattr(cp.cuda, "Stream", Forgetful)
    batches_arrive(cp)
