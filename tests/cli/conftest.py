"""What the tests of the command line share."""

import pytest


@pytest.fixture(autouse=True)
def _few_drawings(request, monkeypatch):
    """Let runs draw no pictures, which takes longer than to train them, unless a test uses the fixture `drawings`."""
    if "drawings" not in request.fixturenames:
        monkeypatch.setattr("xpcnn.cli.train._draw", lambda run: None)


@pytest.fixture
def drawings():
    """Let runs draw their pictures."""
