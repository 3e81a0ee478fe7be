"""A fixture for runs of a moment."""

import pytest

from xpcnn.cli import train
from xpcnn.data import load_dataset, sources


@pytest.fixture
def few_images(monkeypatch):
    """Lets training see few images, 5 batches of them, and draws no pictures."""

    def few(name, split, data_dir=None):
        return load_dataset(name, split, data_dir).subset(slice(320 if split == "train" else 64))

    monkeypatch.setattr(sources, "load_dataset", few)
    monkeypatch.setattr(train, "_draw", lambda run: None)
