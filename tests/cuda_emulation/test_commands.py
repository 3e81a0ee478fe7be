"""The commands on an emulated GPU: what its user sees, and the CPU's accuracy."""

from __future__ import annotations

from pathlib import Path

import pytest

from cuda_emulation import Emulation
from xpcnn.cli import main
from xpcnn.training import read_history


def test_parity_with_the_cpu(emulation: Emulation, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["parity", "run", "--devices", "cpu,cuda"]) == 0
    print(out := capsys.readouterr().out)
    assert "cuda:0" in out
    assert "Emulated GPU 0, CuPy" in out


def test_training_reaches_the_accuracy_of_the_cpu(emulation: Emulation, tmp_path: Path) -> None:
    accuracy = {}
    for device in ("cpu", "cuda"):
        folder = tmp_path / device
        options = ["--model", "numpy_cnn", "--epochs", "1", "--output", str(folder), "--device", device]
        assert main(["train", *options]) == 0
        accuracy[device] = read_history(folder / "history.jsonl")[-1]["test_accuracy"]
    assert accuracy["cpu"] > 0.8
    assert abs(accuracy["cuda"] - accuracy["cpu"]) < 0.01
