"""Faults of what is captured in a CUDA graph."""

from __future__ import annotations

from typing import Any

import numpy as np

from xpcnn.backend import device as device_named
from xpcnn.backend.cuda_graph import GraphRecording

from . import WRONG, caught_by, equal


def captured(cp: Any, function: Any) -> Any:
    """Return the graph of a function that has run before."""
    pool, stream = cp.cuda.MemoryPool(), cp.cuda.Stream(non_blocking=True)
    function()
    cp.cuda.Device().synchronize()
    with cp.cuda.using_allocator(pool.malloc), stream:
        stream.begin_capture()
        try:
            function()
        finally:
            graph = stream.end_capture()
    return graph, pool


@caught_by("AssertionError|which was freed")
def a_state_that_is_a_new_array_after_each_step(cp: Any, planted: bool, patch: Any) -> None:
    state = [cp.zeros(100)]
    begun = state[0]

    def step() -> None:
        if planted:
            state[0] = state[0] + 1
        else:
            state[0] += 1

    graph, _pool = captured(cp, step)
    begun.fill(5)
    for _ in range(3):
        graph.launch()
    equal(state[0], np.full(100, 8.0))


@caught_by("which was freed")
def a_graph_that_reads_an_array_that_is_gone(cp: Any, planted: bool, patch: Any) -> None:
    x, y = cp.ones(100), cp.zeros(100)
    kept = [x]
    graph, _pool = captured(cp, lambda: cp.add(kept[0], 1, out=y))
    cp.cuda.Device().synchronize()
    if planted:
        kept.clear()
        del x
    graph.launch()
    equal(y, np.full(100, 2.0))


@caught_by("cudaErrorStreamCapture|invalidated")
def a_wait_while_a_graph_is_captured(cp: Any, planted: bool, patch: Any) -> None:
    x = cp.zeros(100)

    def step() -> None:
        x.fill(1)
        if planted:
            cp.cuda.get_current_stream().synchronize()

    captured(cp, step)[0].launch()
    equal(x, np.ones(100))


@caught_by("cudaErrorStreamCapture(Isolation|Invalidated)")
def a_graph_that_waits_for_another_stream(cp: Any, planted: bool, patch: Any) -> None:
    x, other = cp.zeros(100), cp.cuda.Stream(non_blocking=True)
    event = other.record()

    def step() -> None:
        if planted:
            cp.cuda.get_current_stream().wait_event(event)
        x.fill(1)

    captured(cp, step)[0].launch()
    equal(x, np.ones(100))


@caught_by("returned 1")
def xpcnn_multiplies_in_a_graph_without_memory_to_work_in(cp: Any, planted: bool, patch: Any) -> None:
    device = device_named("cuda")
    if planted:
        patch.setattr("xpcnn.backend.cublas._WORKSPACE", 0)
    x, y = cp.ones((8, 8), np.float32), cp.zeros((8, 8), np.float32)
    recording = device.recorded(lambda: device.matmul(x, x, y))
    for _ in range(3):
        y.fill(0)
        recording.run()
        equal(y, np.full((8, 8), 8))


@caught_by(WRONG)
def xpcnn_puts_a_number_of_the_host_into_a_graph(cp: Any, planted: bool, patch: Any) -> None:
    device = device_named("cuda")
    if planted:
        patch.setattr(GraphRecording, "host_numbers", lambda self, numbers, dtype: list(numbers()))
    x, steps = cp.zeros(100), iter(range(1, 9))

    def step() -> None:
        (number,) = device.host_numbers(lambda: (next(steps),), np.float64)
        x[...] += number

    recording = device.recorded(step)
    for _ in range(4):
        recording.run()
    equal(x, np.full(100, 1.0 + 2 + 3 + 4))


@caught_by("which was freed")
def xpcnn_captures_a_graph_in_memory_that_others_give_back(cp: Any, planted: bool, patch: Any) -> None:
    device, common = device_named("cuda"), cp.get_default_memory_pool()
    if planted:
        patch.setattr(cp.cuda, "MemoryPool", lambda: common)
    y = cp.zeros(100)
    recording = device.recorded(lambda: cp.add(cp.full(100, 3.0) + 1, 1, out=y))
    for _ in range(2):
        recording.run()
    common.free_all_blocks()
    recording.run()
    equal(y, np.full(100, 5.0))
