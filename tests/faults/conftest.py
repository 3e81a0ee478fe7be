"""A fixture for runs of a moment."""

import pytest
from helpers import read_few

from xpcnn.cli import train


@pytest.fixture
def few_images(monkeypatch):
    """Lets training see few images, 5 batches of them, and draws no pictures."""
    read_few(monkeypatch, 320, 64)
    monkeypatch.setattr(train, "_draw", lambda run: None)
