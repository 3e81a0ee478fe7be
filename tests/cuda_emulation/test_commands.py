"""The commands on an emulated GPU: what its user sees, and the CPU's accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cuda_emulation import Emulation
from xpcnn.cli import main
from xpcnn.data import load_dataset, sources
from xpcnn.training import read_history


def test_parity_with_the_cpu(emulation: Emulation, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["parity", "run", "--devices", "cpu,cuda", "--steps", "5"]) == 0
    out = capsys.readouterr().out
    assert "Emulated GPU 0, CuPy" in out, out


def test_training_reaches_the_accuracy_of_the_cpu(
    emulation: Emulation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def few(name: str, split: str = "train", data_dir: str | None = None) -> Any:
        return load_dataset(name, split, data_dir).subset(slice(640 if split == "train" else 128))

    monkeypatch.setattr(sources, "load_dataset", few)
    found = {}
    for device in ("cpu", "cuda"):
        folder = tmp_path / device
        options = ["--model", "numpy_cnn", "--epochs", "2", "--output", str(folder), "--device", device]
        assert main(["train", *options]) == 0
        found[device] = read_history(folder / "history.jsonl")[-1]
    assert found["cpu"]["test_accuracy"] > 0.5
    for name in ("train_loss", "test_loss", "test_accuracy"):
        assert found["cuda"][name] == pytest.approx(found["cpu"][name], rel=1e-3), name
