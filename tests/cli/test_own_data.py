"""`--data PATH`: folders of pictures and .npz files, trained on, resumed, measured, copied away and compared."""

import shutil

import numpy as np
import pytest

from xpcnn.cli import main
from xpcnn.training import load_trained

Image = pytest.importorskip("PIL.Image", reason="pictures need the viz extra")

NAMES = ("down", "up")


def pictures(rng, count, size=16):
    """Return images whose class is the half that is lighter."""
    labels = np.arange(count) % 2
    images = rng.integers(0, 100, (count, size, size), np.uint8)
    for image, label in zip(images, labels, strict=True):
        half = slice(0, size // 2) if label else slice(size // 2, None)
        image[half] += 120
    return images, labels


@pytest.fixture
def folder(tmp_path, monkeypatch, rng):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XPCNN_DATA", str(tmp_path / "cache"))
    images, labels = pictures(rng, 120)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = tmp_path / "halves" / NAMES[label] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    np.savez(tmp_path / "halves.npz", x=images, y=np.array(NAMES)[labels])
    return tmp_path


OPTIONS = ["--epochs", "4", "--batch-size", "16", "--device", "cpu"]


@pytest.mark.parametrize("data", ["halves", "halves.npz"])
def test_ones_own_pictures(folder, capsys, data):
    assert main(["train", "--data", data, *OPTIONS]) == 0
    run = folder / "runs" / "lenet5-halves-1"
    out = capsys.readouterr().out
    assert f"on {folder / data} (" in out
    assert main(["evaluate", str(run), "--device", "cpu"]) == 0
    accuracy = capsys.readouterr().out
    assert "100.00%" in accuracy
    shutil.rmtree(folder / "cache", ignore_errors=True)
    (folder / data).rename(folder / "moved") if data == "halves" else (folder / data).rename(folder / "moved.npz")
    moved = "moved" if data == "halves" else "moved.npz"
    assert main(["evaluate", str(run), "--device", "cpu"]) == 2
    assert str(folder / data) in capsys.readouterr().err
    # What prediction needs is in the run itself.
    Image.fromarray(pictures(np.random.default_rng(5), 2)[0][1]).save(folder / "new.png")
    assert main(["predict", str(run), "new.png", "--device", "cpu"]) == 0
    assert capsys.readouterr().out.startswith("new.png: up (")
    assert main(["evaluate", str(run), "--data", moved, "--device", "cpu"]) == 0
    assert capsys.readouterr().out.split(": ")[1] == accuracy.split(": ")[1]


@pytest.mark.parametrize("data", ["halves", "halves.npz"])
def test_new_pictures_are_measured_whole_if_asked(folder, capsys, data):
    assert main(["train", "--data", "halves", *OPTIONS, "--output", "run"]) == 0
    capsys.readouterr()
    assert main(["evaluate", "run", "--data", data, "--whole", "--device", "cpu"]) == 0
    assert "accuracy 100.00% (120 of 120 images), loss" in capsys.readouterr().out
    assert main(["evaluate", "run", "--data", data, "--device", "cpu"]) == 0
    part = int(capsys.readouterr().out.split(" of ")[1].split(" test images")[0])
    assert 0 < part < 60


def test_parity_of_ones_own_pictures(folder, capsys):
    few = ["--steps", "2", "--batch-size", "8"]
    assert main(["parity", "record", "--data", "halves", "--size", "14", *few, "--output", "trace"]) == 0
    (folder / "halves").rename(folder / "moved")
    assert main(["parity", "check", "trace", "--device", "cpu"]) == 2
    assert main(["parity", "check", "trace", "--device", "cpu", "--data", "moved"]) == 0
    (folder / "moved" / "up").rename(folder / "moved" / "top")
    capsys.readouterr()
    assert main(["parity", "check", "trace", "--device", "cpu", "--data", "moved"]) == 2
    assert "are not those that were recorded: classes (down, up, there down, top)" in capsys.readouterr().err
    assert main(["parity", "run", "--data", "halves.npz", *few, "--devices", "cpu,cpu"]) == 0


def test_bad_files_and_sizes(folder, capsys):
    (folder / "halves" / "up" / "broken.png").write_bytes(b"no picture")
    assert main(["train", "--data", "halves", *OPTIONS]) == 2
    assert "broken.png" in capsys.readouterr().err
    assert not (folder / "runs").exists()
    assert main(["train", "--data", "halves", "--skip-bad", "--size", "20", *OPTIONS]) == 0
    captured = capsys.readouterr()
    assert "1 of 121 files cannot be read and are left out" in captured.err
    assert load_trained("runs/lenet5-halves-1", "cpu").spec.shape == (1, 20, 20)
    assert main(["train", "--size", "20", *OPTIONS]) == 2
    assert "size is for folders of pictures only" in capsys.readouterr().err
