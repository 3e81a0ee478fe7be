"""Training a part of a network from the command line."""

import numpy as np
import pytest

from xpcnn.cli import main
from xpcnn.data import load_dataset
from xpcnn.models import build_model
from xpcnn.training import Checkpoint


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def few(name, split="train", data_dir=None):
        return load_dataset(name, split, data_dir).subset(slice(200))

    monkeypatch.setattr("xpcnn.data.sources.load_dataset", few)
    return tmp_path


def test_frozen_features(folder, capsys):
    """Only the last layer changes, also after the run is resumed."""
    options = ["--freeze-features", "--device", "cpu", "--epochs", "2", "--output", "run"]
    assert main(["train", "--model", "small_cnn", *options]) == 0
    start = build_model("small_cnn", (1, 28, 28), 10, seed=0)
    last = [name for name, _ in start.named_parameters()][-2:]
    checkpoint = Checkpoint.load(folder / "run" / "checkpoint.safetensors")
    for name, array in start.state_dict().items():
        assert np.array_equal(checkpoint.model[name], array) == (name not in last), name
    assert "fc2" not in checkpoint.info["frozen"]
    assert "conv1" in checkpoint.info["frozen"]
    assert main(["train", "--resume", "run", "--device", "cpu"]) == 0
    assert main(["evaluate", "run", "--device", "cpu"]) == 0
    assert capsys.readouterr().err == ""
