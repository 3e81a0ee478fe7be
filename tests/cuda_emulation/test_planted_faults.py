"""The emulation catches every kind of fault that code for GPUs can have, and nothing else.

What is caught is an error of CUDA or a wrong value, at one seed of three at least. Without the fault every seed passes.
"""

from __future__ import annotations

import re

import pytest

from cuda_emulation import Emulation
from cuda_emulation.faults import FAULTS, Fault
from xpcnn.backend import device as device_named

SEEDS = range(3)


@pytest.mark.parametrize(("run", "pattern"), FAULTS.values(), ids=FAULTS)
def test_each_planted_fault_is_caught(run: Fault, pattern: str, emulation: Emulation) -> None:
    cp = device_named("cuda").xp

    def outcome(planted: bool, seed: int) -> str:
        emulation.seed(seed)
        text = ""
        with pytest.MonkeyPatch.context() as patch:
            try:
                run(cp, planted, patch)
            except Exception as error:
                text = f"{type(error).__name__}: {error} "
        text += emulation.finish()
        emulation.recover()
        cp.cuda.Device(0).use()
        return text

    assert [outcome(False, seed) for seed in SEEDS] == [""] * len(SEEDS)
    found = [outcome(True, seed) for seed in SEEDS]
    assert any(re.search(pattern, text) for text in found), found
