"""The fixtures every test may use: `device` and `xp` over every kind of device, and a seeded `rng`."""

import os

import cuda_emulation
import numpy as np
import pytest
import strict_xp

from xpcnn import backend

pytest_plugins = ["xpcnn.testing.fixtures"]  # `xp`, and the two real devices


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=0, help="seed of the rng fixture (default: 0)")


def pytest_configure(config: pytest.Config) -> None:
    """With XPCNN_CUDA=emulated in the environment the GPU is an emulated one; see cuda_emulation/README.md."""
    if os.environ.get("XPCNN_CUDA") == "emulated":
        cuda_emulation.install(config.getoption("--seed"))


@pytest.fixture(params=["cpu", "strict", "cuda"])
def device(request: pytest.FixtureRequest) -> backend.Device:
    """Each device in turn: NumPy, the make-believe device, and the GPU where one answers."""
    from xpcnn.testing.fixtures import answering  # late, for pytest to have prepared it as a plugin

    return strict_xp.DEVICE if request.param == "strict" else answering(request.param)


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """A generator that starts afresh in every test, so that a test draws the same numbers on every device."""
    seed = request.config.getoption("--seed")
    print(f"rng: --seed {seed}")  # pytest shows what was printed when the test fails
    return np.random.default_rng(seed)
