"""What the tests of the command line share."""

import pytest

from xpcnn.models import build_model
from xpcnn.training import Checkpoint, RunConfig


@pytest.fixture(autouse=True)
def _few_drawings(request, monkeypatch):
    """Let runs draw no pictures, which takes longer than to train them, unless a test uses the fixture `drawings`."""
    if "drawings" not in request.fixturenames:
        monkeypatch.setattr("xpcnn.cli.train._draw", lambda run: None)


@pytest.fixture
def drawings():
    """Let runs draw their pictures."""


@pytest.fixture
def model(tmp_path):
    """An untrained LeNet-5, as the file of a run."""
    state = build_model("lenet5", (1, 28, 28), 10, seed=0).state_dict()
    Checkpoint(state, info={"config": vars(RunConfig())}).save(tmp_path / "model")
    return str(tmp_path / "model")
