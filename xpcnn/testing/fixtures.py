"""Fixtures for pytest that run a test on every device, for a user's own layers as for this package's.

In a `conftest.py`:

    pytest_plugins = ["xpcnn.testing.fixtures"]

A test that takes `device` (or `xp`, its array module) then runs on the CPU and on the GPU. Where no GPU answers the
latter is skipped with the reason, or fails if the environment has `XPCNN_REQUIRE_GPU=1`.

To add a device of your own, override the fixture with one that has more names and calls `answering` for these two.
"""

from __future__ import annotations

import functools
import os
import warnings
from typing import Any

import pytest

from .. import backend
from ..backend import Device, DeviceUnavailableError


@functools.cache
def first_gpu() -> tuple[Device | None, str]:
    """Return the first GPU, or None and why there is none."""
    try:
        # CuPy warns about its surroundings when it is imported: no business of the test that happens to come first.
        with warnings.catch_warnings(action="ignore"):
            return backend.device("cuda"), ""
    except DeviceUnavailableError as error:
        return None, str(error)


def answering(name: str) -> Device:
    """Return `"cpu"` or `"cuda"`; skip the test if the GPU does not answer, or fail it if one is required."""
    if name != "cuda":
        return backend.device(name)
    gpu, reason = first_gpu()
    if gpu is None:
        if os.environ.get("XPCNN_REQUIRE_GPU") == "1":
            pytest.fail(f"XPCNN_REQUIRE_GPU=1, but {reason}")
        pytest.skip(reason)
    return gpu


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> Device:
    """Each device in turn: NumPy, and the GPU where one answers."""
    return answering(request.param)


@pytest.fixture
def xp(device: Device) -> Any:
    """The array module of `device`."""
    return device.xp
