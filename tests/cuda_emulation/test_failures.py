"""A GPU that lacks memory, refuses a launch or goes away while a network is trained: one line, and nothing is lost."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cuda_emulation import Emulation
from xpcnn.cli import main
from xpcnn.data import load_dataset, sources
from xpcnn.training import Checkpoint, read_history

EPOCHS = 2


def few(name: str, split: str = "train", data_dir: str | None = None) -> Any:
    return load_dataset(name, split, data_dir).subset(slice(128 if split == "train" else 32))


@pytest.fixture(autouse=True)
def _few_images(monkeypatch: pytest.MonkeyPatch, emulation: Emulation) -> None:
    monkeypatch.setattr(sources, "load_dataset", few)
    monkeypatch.setenv("XPCNN_TRACEBACK", "")


def train(folder: Path, *options: str) -> int:
    return main(
        [
            "train",
            "--model",
            "numpy_cnn",
            "--epochs",
            str(EPOCHS),
            "--output",
            str(folder),
            "--device",
            "cuda",
            *options,
        ]
    )


def resume(folder: Path) -> int:
    return main(["train", "--resume", str(folder), "--device", "cuda"])


def weights(folder: Path) -> dict[str, Any]:
    return Checkpoint.load(folder / "checkpoint.safetensors").model


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory, emulation: Emulation) -> tuple[Path, dict[str, int]]:
    """A run that nothing disturbed, and how many allocations and launches it took."""
    folder = tmp_path_factory.mktemp("complete") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "load_dataset", few)
        before = emulation.counts()
        assert train(folder) == 0
        after = emulation.counts()
    return folder, {name: after[name] - before[name] for name in after}


FAULTS = {
    "allocation": ("allocations", "out of memory.*: Out of memory allocating .* bytes"),
    "launch": ("launches", "the GPU failed: CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES: too many resources requested"),
    "call": (
        "calls",
        "the GPU failed: (cudaErrorDevicesUnavailable|CUDA_ERROR_DEVICE_UNAVAILABLE|CUBLAS_STATUS_EXECUTION_FAILED)",
    ),
}


@pytest.mark.parametrize("part", [0.6, 0.8])
@pytest.mark.parametrize("kind", FAULTS)
def test_a_failure_in_training_is_one_line_and_the_run_can_be_resumed(
    kind: str,
    part: float,
    emulation: Emulation,
    complete: tuple[Path, dict[str, int]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    undisturbed, counts = complete
    count, message = FAULTS[kind]
    folder = tmp_path / "run"
    with emulation.faults(**{kind: int(part * counts[count])}):
        code = train(folder)
    assert code == 3
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert re.match(f"xpcnn: error: {message}", lines[0]), lines[0]
    assert "the last good checkpoint is of " in lines[0]
    assert f"continue with: xpcnn train --resume {folder}" in lines[0]
    assert 1 <= len(read_history(folder / "history.jsonl")) < EPOCHS
    assert resume(folder) == 0
    assert len(read_history(folder / "history.jsonl")) == EPOCHS
    for name, expected in weights(undisturbed).items():
        np.testing.assert_array_equal(weights(folder)[name], expected)


@pytest.mark.parametrize("kind", FAULTS)
def test_a_failure_at_the_start_is_one_line(
    kind: str, emulation: Emulation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with emulation.faults(**{kind: 1}):
        assert train(tmp_path / "run") in (2, 3)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert "a bug" not in lines[0]
    assert not (tmp_path / "run").exists() or resume(tmp_path / "run") == 0


@pytest.mark.parametrize("command", ["predict", "parity"])
def test_every_command_says_in_one_line_that_the_gpu_failed(
    command: str,
    emulation: Emulation,
    complete: tuple[Path, dict[str, int]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, _ = complete
    capsys.readouterr()
    options = {
        "predict": ["predict", str(folder), "mnist-mini", "--device", "cuda"],
        "parity": ["parity", "run", "--devices", "cpu,cuda"],
    }[command]
    with emulation.faults(call=40):
        assert main(options) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("xpcnn: error: the GPU failed: "), line


def test_replayed_steps_are_the_usual_ones_and_their_failure_loses_nothing(
    emulation: Emulation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = "--batch-size", "32", "--cuda-graph"
    assert train(tmp_path / "usual", *options[:2]) == 0
    before = emulation.counts()
    assert train(tmp_path / "replayed", *options) == 0
    after = emulation.counts()
    assert after["graphs"] - before["graphs"] == 2 * EPOCHS  # of four steps, the last two
    for name, expected in weights(tmp_path / "usual").items():
        np.testing.assert_allclose(weights(tmp_path / "replayed")[name], expected, rtol=2e-5, atol=1e-6)
    capsys.readouterr()
    with emulation.faults(call=int(0.8 * (after["calls"] - before["calls"]))):
        assert train(tmp_path / "failed", *options) == 3
    assert "the GPU failed" in capsys.readouterr().err
    assert main(["train", "--resume", str(tmp_path / "failed"), "--device", "cuda", "--cuda-graph"]) == 0
    for name, expected in weights(tmp_path / "replayed").items():
        np.testing.assert_array_equal(weights(tmp_path / "failed")[name], expected)
