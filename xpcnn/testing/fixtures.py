"""Fixtures for pytest that run a test on every device, for this package's layers and for your own.

In a `conftest.py`:

    pytest_plugins = ["xpcnn.testing.fixtures"]

A test that takes `device` (or `xp`, its array module) then runs on the CPU and on the GPU. Without a GPU the latter is
skipped with the reason; with `XPCNN_REQUIRE_GPU=1` in the environment it fails.

To add a device, override the fixture with one that has more parameters and calls `answering` for these two.
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
    """Return the first GPU and an empty string, or None and the reason."""
    try:
        # CuPy warns about the installation when it is imported; the test that happens to be first must not fail for it.
        with warnings.catch_warnings(action="ignore"):
            return backend.device("cuda"), ""
    except DeviceUnavailableError as error:
        return None, str(error)


def answering(name: str) -> Device:
    """Return the device `"cpu"` or `"cuda"`; without a GPU skip the test, or fail it if one is required."""
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
    """Each device in turn: the CPU, and the GPU if there is one."""
    return answering(request.param)


@pytest.fixture
def xp(device: Device) -> Any:
    """The array module of `device`."""
    return device.xp
