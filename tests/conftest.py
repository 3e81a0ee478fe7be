"""The fixtures every test may use: `device` and `xp` over every kind of device, and a seeded `rng`."""

import functools
import os
import warnings
from typing import Any

import numpy as np
import pytest
import strict_xp

from xpcnn import backend


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=0, help="seed of the rng fixture (default: 0)")


@functools.cache
def _gpu() -> tuple[backend.Device | None, str]:
    """Return the first GPU, or None and why there is none."""
    try:
        # CuPy warns about its surroundings when it is imported: no business of the test that happens to come first.
        with warnings.catch_warnings(action="ignore"):
            return backend.Device("cuda"), ""
    except backend.DeviceUnavailableError as error:
        return None, str(error)


@pytest.fixture(params=["cpu", "strict", "cuda"])
def device(request: pytest.FixtureRequest) -> backend.Device:
    """Each device in turn: NumPy, the make-believe device, and the GPU where one answers."""
    if request.param != "cuda":
        return {"cpu": backend.CPU, "strict": strict_xp.DEVICE}[request.param]
    gpu, reason = _gpu()
    if gpu is None:
        if os.environ.get("XPCNN_REQUIRE_GPU") == "1":
            pytest.fail(f"XPCNN_REQUIRE_GPU=1, but {reason}")
        pytest.skip(reason)
    return gpu


@pytest.fixture
def xp(device: backend.Device) -> Any:
    """The array module of `device`."""
    return device.xp


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """A generator that starts afresh in every test, so that a test draws the same numbers on every device."""
    seed = request.config.getoption("--seed")
    print(f"rng: --seed {seed}")  # pytest shows what was printed when the test fails
    return np.random.default_rng(seed)
