"""The fixtures every test may use: `device` and `xp` over every kind of device, and a seeded `rng`."""

import os
from collections.abc import Iterator

import cuda_emulation
import numpy as np
import pytest
import strict_xp

from xpcnn import backend

pytest_plugins = ["xpcnn.testing.fixtures"]  # `xp`, and the two real devices


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=0, help="seed of the rng fixture and of an emulated GPU (default: 0)")


_EMULATED = pytest.StashKey[cuda_emulation.Emulation]()


def pytest_configure(config: pytest.Config) -> None:
    """With XPCNN_CUDA=emulated in the environment the GPU is an emulated one; see cuda_emulation/README.md."""
    config.addinivalue_line("markers", "gpu: uses a GPU if there is one, without the fixture `device`")
    config.addinivalue_line("markers", "real_gpu(reason): skipped on an emulated GPU")
    if os.environ.get("XPCNN_CUDA") == "emulated" and not cuda_emulation.unavailable():
        os.environ["XPCNN_REQUIRE_GPU"] = "1"
        config.stash[_EMULATED] = cuda_emulation.install(config.getoption("--seed"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On an emulated GPU, select the tests of GPUs; the others are those of any run. Elsewhere, leave out its own."""
    if os.environ.get("XPCNN_CUDA") != "emulated":
        selected = [item for item in items if "emulation" not in item.fixturenames]
    else:
        selected = [item for item in items if _uses_gpu(item)]
        reason = cuda_emulation.unavailable()
        for item in selected:
            if reason:
                item.add_marker(pytest.mark.skip(reason=f"CUDA cannot be emulated: {reason}"))
            elif (marker := item.get_closest_marker("real_gpu")) is not None:
                item.add_marker(pytest.mark.skip(reason=marker.args[0]))
    if len(selected) < len(items):
        config.hook.pytest_deselected(items=[item for item in items if item not in set(selected)])
        items[:] = selected


def _uses_gpu(item: pytest.Item) -> bool:
    on_gpu = hasattr(item, "callspec") and item.callspec.params.get("device") == "cuda"
    return on_gpu or "emulation" in item.fixturenames or item.get_closest_marker("gpu") is not None


@pytest.fixture(scope="session")
def emulation(request: pytest.FixtureRequest) -> cuda_emulation.Emulation:
    """The controls of the emulated GPU. Tests that take it run only there."""
    return request.config.stash[_EMULATED]


@pytest.fixture(autouse=True)
def _nothing_goes_wrong_unseen(request: pytest.FixtureRequest) -> Iterator[None]:
    """On an emulated GPU, fail a test after which some work fails that nothing has waited for."""
    yield
    if (emulated := request.config.stash.get(_EMULATED, None)) is not None:
        failure = emulated.finish()
        emulated.recover()
        assert not failure, failure


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
