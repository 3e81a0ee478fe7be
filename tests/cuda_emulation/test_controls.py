"""What the emulation offers beside CUDA: an order by seed, counters, and failures to order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cuda_emulation import Emulation
from xpcnn.backend import available_devices
from xpcnn.backend import device as device_named


@pytest.fixture
def cp() -> Any:
    return device_named("cuda").xp


def test_there_are_two_devices(emulation: Emulation) -> None:
    devices, reason = available_devices()
    assert [device.name for device in devices] == ["cpu", "cuda:0", "cuda:1"]
    assert reason == ""


def test_everything_is_counted(emulation: Emulation, cp: Any) -> None:
    ones = cp.asarray(np.ones((4, 4)))
    product = ones @ ones + 1  # compiled before it is counted
    before = emulation.counts()
    product = cp.asarray(np.ones((4, 4)))
    product = product @ product + 1
    cp.copyto(ones, product)
    product.fill(0)
    product.get()
    after = emulation.counts()
    found = {name: after[name] - before[name] for name in after if name != "calls"}
    assert found == {
        "launches": 1,
        "products": 1,
        "host_to_device": 1,
        "device_to_host": 1,
        "device_to_device": 1,
        "fills": 1,
        "allocations": 3,
        "synchronisations": 2,  # by both copies
        "graphs": 0,
    }


def test_an_allocation_fails_where_it_was_told_to(emulation: Emulation, cp: Any) -> None:
    with emulation.faults(allocation=1):
        cp.empty(3)
        with pytest.raises(MemoryError, match="Out of memory allocating 32 bytes"):
            cp.empty(4)
        cp.empty(5)


def test_a_device_that_is_gone_stays_so(emulation: Emulation, cp: Any) -> None:
    x = cp.ones(3)
    cp.cuda.Device().synchronize()
    with emulation.faults(call=0):
        for _ in range(2):
            with pytest.raises(RuntimeError, match="cudaErrorDevicesUnavailable"):
                x.get()
    assert x.get().sum() == 3


def test_a_seed_chooses_an_order_and_repeats_it(emulation: Emulation, cp: Any) -> None:
    kernel = cp.RawKernel(
        'extern "C" __global__ void order(int* n, int* at) { at[blockIdx.x] = atomicAdd(n, 1); }', "order"
    )

    def order(seed: int) -> tuple[int, ...]:
        emulation.seed(seed)
        at = cp.zeros(8, np.int32)
        kernel((8,), (1,), (cp.zeros(1, np.int32), at))
        return tuple(at.tolist())

    found = [order(seed) for seed in range(8)]
    assert len(set(found)) > 3
    assert found == [order(seed) for seed in range(8)]
