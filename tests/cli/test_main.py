"""The command line, used as its user does."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers import read_few

from xpcnn.cli import main
from xpcnn.data import sources
from xpcnn.training import Checkpoint, RunConfig, SaveError, TrainingDivergedError, read_history
from xpcnn.training.recipes import with_recipe
from xpcnn.training.run import read_config


@pytest.fixture
def few_images(monkeypatch):
    read_few(monkeypatch, 640, 256)


@pytest.fixture(scope="module")
def usual_weight(tmp_path_factory):
    """The first filters after training of the usual network."""
    folder = tmp_path_factory.mktemp("usual") / "run"
    with pytest.MonkeyPatch.context() as patch:
        read_few(patch, 640, 256)
        train(folder)
    return saved(folder)["conv1.weight"]


def train(folder, *options):
    return main(["train", "--device", "cpu", "--model", "lenet5", "--epochs", "2", "--output", str(folder), *options])


def saved(folder):
    return Checkpoint.load(folder / "checkpoint.safetensors").model


def test_train_keeps_everything_about_the_run(tmp_path, few_images, drawings, capsys):
    folder = tmp_path / "new" / "run"
    assert train(folder, "--progress") == 0
    captured = capsys.readouterr()
    assert "lenet5 (61,706 parameters) on mnist-mini (640 training and 256 test images), device cpu" in captured.out
    rows = [line.split() for line in captured.out.splitlines() if line.strip()[:1].isdigit()]
    assert [row[0] for row in rows] == ["1", "2"]
    assert "images/s" in captured.err
    assert sorted(path.name for path in folder.iterdir()) == [
        ".lock",
        "checkpoint.safetensors",
        "config.json",
        "curves.png",
        "history.jsonl",
        "predictions.png",
        "report.html",
    ]
    records = read_history(folder / "history.jsonl")
    assert f"test accuracy {records[-1]['test_accuracy']:.2%}" in captured.out
    assert json.loads((folder / "config.json").read_text())["epochs"] == 2
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")

    losses = []
    for views in ([], ["--views", "1"], ["--views", "2"], ["--views", "6"]):
        assert main(["evaluate", str(folder), "--device", "cpu", *views]) == 0
        out = capsys.readouterr().out
        assert "of 256 test images" in out
        losses.append(re.search(r"loss ([\d.]+)", out).group(1))
    assert losses[0] == losses[1]
    assert len(set(losses)) == 3


def test_train_with_patience_shows_validation_and_gives_back_the_best_weights(tmp_path, few_images, capsys):
    folder = tmp_path / "run"
    # With a learning rate of 0 no epoch is better than the first.
    assert train(folder, "--epochs", "6", "--patience", "2", "--validation", "0.2", "--lr", "0") == 0
    out = capsys.readouterr().out
    assert "(512 training, 128 validation and 256 test images)" in out
    assert "validation loss  validation accuracy" in out
    records = read_history(folder / "history.jsonl")
    best = records[0]
    assert [record["epoch"] for record in records] == [1, 2, 3]
    loss, accuracy = best["validation_loss"], best["validation_accuracy"]
    (line,) = [line for line in out.splitlines() if line.startswith("best epoch ")]
    assert line.startswith(f"best epoch 1 of 3 (validation loss {loss:.4f}, accuracy {accuracy:.2%}); ")
    test = Checkpoint.load(folder / "best.safetensors").info["test"]
    assert f"); test accuracy {test['accuracy']:.2%}, " in line
    assert Checkpoint.load(folder / "best.safetensors").info["record"] == best

    assert main(["train", "--resume", str(folder), "--device", "cpu"]) == 0
    assert line.rpartition(", ")[0] in capsys.readouterr().out
    assert main(["train", "--resume", str(folder), "--validation", "0.1", "--device", "cpu"]) == 2
    assert "leave out --validation" in capsys.readouterr().err


def test_a_known_data_set_has_its_recipe_and_the_run_remembers_it(tmp_path, few_images, monkeypatch, capsys):
    monkeypatch.setattr("xpcnn.cli.train._draw", lambda run: None)
    folder = tmp_path / "run"
    command = ["train", "--device", "cpu"]
    assert main([*command, "--epochs", "1", "--label-smoothing", "0.2", "--output", str(folder)]) == 0
    expected = RunConfig(**with_recipe({"epochs": 1, "label_smoothing": 0.2}))
    assert expected.model != RunConfig().model
    assert read_config(folder) == expected
    assert main([*command, "--resume", str(folder)]) == 0
    capsys.readouterr()
    assert main([*command, "--resume", str(folder), "--recipe", "none"]) == 2
    assert "leave out --recipe" in capsys.readouterr().err
    assert (
        main([*command, "--recipe", "none", "--epochs", "1", "--ema", "0.5", "--output", str(tmp_path / "none")]) == 0
    )
    assert read_config(tmp_path / "none") == RunConfig(epochs=1, ema=0.5)


def test_the_default_folder_is_the_next_free_one(tmp_path, few_images, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "lenet5-mnist-mini-1").mkdir(parents=True)
    assert main(["train", "--device", "cpu", "--model", "lenet5", "--epochs", "1"]) == 0
    assert (tmp_path / "runs" / "lenet5-mnist-mini-2" / "checkpoint.safetensors").exists()


def test_one_seed_gives_the_same_bits_on_any_number_of_threads(tmp_path, few_images):
    from xpcnn.backend import CPU

    threads = CPU.threads
    try:
        for count in (1, 3):
            assert train(tmp_path / str(count), "--threads", str(count)) == 0
            assert CPU.threads == count
    finally:
        CPU.threads = threads
    one, three = saved(tmp_path / "1"), saved(tmp_path / "3")
    for name in one:
        np.testing.assert_array_equal(one[name], three[name], err_msg=name)


@pytest.mark.parametrize(
    "options",
    [
        ["--seed", "1"],
        ["--batch-size", "32"],
        ["--optimizer", "sgd"],
        ["--optimizer", "adam"],
        ["--lr", "0.001"],
        ["--weight-decay", "0.5"],
        ["--augment", "none"],
        ["--class-weights"],
        ["--validation", "0.2"],
        ["--patience", "1"],
        ["--precision", "mixed"],
    ],
    ids=" ".join,
)
def test_each_option_changes_the_result(tmp_path, few_images, usual_weight, options):
    assert train(tmp_path / "other", *options) == 0
    assert np.abs(usual_weight - saved(tmp_path / "other")["conv1.weight"]).max() > 1e-6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "alexnet"], "unknown model 'alexnet': expected one of"),
        (["--data", "imagenet"], "unknown data set 'imagenet': expected one of"),
        (["--device", "tpu"], "unknown device 'tpu': expected"),
        (["--device", "cuda:99"], r"cuda:99 .*|CuPy cannot be imported"),
        (["--precision", "half"], "unknown precision 'half': expected float32, tf32, mixed"),
        (["--precision", "tf32", "--device", "cpu"], "TF32 was asked for, but cpu does not have it"),
        (["--optimizer", "lion"], "unknown optimizer 'lion': expected one of"),
        (["--epochs", "0"], "at least 1"),
        (["--batch-size", "many"], "invalid int value: 'many'"),
        (["--threads", "0"], "threads must be at least 1, got 0"),
        (["--seed", "-1"], "at least 0"),
        (["--lr", "-1"], "lr must be at least 0, got -1"),
        (["--validation", "1"], "validation must be at least 0 and below 1, got 1.0"),
        (["--recipe", "slow"], "there is no recipe 'slow' for mnist-mini: its recipes are fast"),
        (["--patience", "0"], "patience must be at least 1, got 0"),
        (["--data", "mnist", "--data-dir", "{tmp}/damaged"], "train-images-idx3-ubyte.gz"),
        (["--output", "{tmp}/taken"], "taken exists already"),
        (["--output", "{tmp}/taken/file/run"], "cannot be made: Not a directory"),
        (["--resume", "{tmp}/taken"], "not the folder of a run"),
        (["--bogus"], "unrecognized arguments: --bogus"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, few_images, capsys, options, message):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("")
    (tmp_path / "damaged" / "mnist").mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (tmp_path / "damaged" / "mnist" / f"{name}-ubyte.gz").write_bytes(b"\x1f\x8bnot gzip at all")
    options = [option.format(tmp=tmp_path) for option in options]
    output = [] if "--output" in options or "--resume" in options else ["--output", str(tmp_path / "out")]
    before = sorted(tmp_path.rglob("*"))
    try:
        code = main(["train", *(["--device", "cpu"] if "--device" not in options else []), *options, *output])
    except SystemExit as stop:  # argparse's own way
        code = stop.code
    captured = capsys.readouterr()
    assert code == 2
    assert re.search(message, captured.err)
    assert len(captured.err.splitlines()) == 1
    assert captured.err.startswith("xpcnn")
    assert not captured.out
    assert sorted(tmp_path.rglob("*")) == before


def test_a_damaged_or_foreign_checkpoint_is_refused(tmp_path, few_images, capsys):
    train(tmp_path / "run")
    file = tmp_path / "run" / "checkpoint.safetensors"
    whole = file.read_bytes()
    capsys.readouterr()
    for content in (whole[:-100], b"", b"{}" * 50):
        file.write_bytes(content)
        for command in (["evaluate", str(tmp_path / "run")], ["predict", str(tmp_path / "run"), "x.png"]):
            assert main([*command, "--device", "cpu"]) == 2
            captured = capsys.readouterr()
            assert "damaged or not a checkpoint" in captured.err
            assert len(captured.err.splitlines()) == 1
            assert not captured.out


def test_a_diverging_run_says_where_and_keeps_the_last_good_checkpoint(tmp_path, few_images, capsys):
    assert train(tmp_path / "run", "--optimizer", "sgd", "--lr", "1e20") == 1
    error = capsys.readouterr().err
    assert "at step" in error
    assert "learning rate" in error
    assert "the last good checkpoint is of" in error
    assert "(step 0, 0 epochs complete)" in error
    assert all(np.isfinite(weight).all() for weight in saved(tmp_path / "run").values())


def test_evaluate_takes_another_data_set_of_the_same_shape_only(tmp_path, few_images, monkeypatch, capsys):
    from xpcnn.data import Dataset

    train(tmp_path / "run")
    asked = []

    def load(name, split, data_dir):
        asked.append((name, split, data_dir))
        shape = (4, 3, 32, 32) if name == "cifar10" else (4, 1, 28, 28)
        return Dataset(np.zeros(shape, np.uint8), np.arange(4), classes=tuple("0123456789"), name=name)

    monkeypatch.setattr(sources, "load_dataset", load)
    capsys.readouterr()
    options = ["evaluate", str(tmp_path / "run"), "--device", "cpu", "--data-dir", "there", "--data"]
    assert main([*options, "fashion-mnist"]) == 0
    assert capsys.readouterr().out.startswith("fashion-mnist: accuracy ")
    assert main([*options, "cifar10"]) == 2
    assert "(3, 32, 32) of 10 classes, this network takes (1, 28, 28)" in capsys.readouterr().err
    assert asked == [("fashion-mnist", "test", "there"), ("cifar10", "test", "there")]


def test_resume_takes_no_other_options(tmp_path, few_images, capsys):
    train(tmp_path / "run")
    assert main(["train", "--resume", str(tmp_path / "run"), "--lr", "0.1", "--device", "cpu"]) == 2
    assert "leave out --lr" in capsys.readouterr().err


@pytest.mark.gpu
def test_devices_lists_what_answers(capsys):
    assert main(["devices"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("cpu: NumPy ")
    assert "GPU" in out or "cuda:0" in out


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends Ctrl-C to whole process groups only")
def test_ctrl_c_leaves_a_checkpoint_that_resumes(tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "xpcnn", "train", "--device", "cpu", "--epochs", "50", "--output", str(folder)]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert "device cpu" in process.stdout.readline()
        time.sleep(0.5)  # somewhere within the first epoch
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "continue with: xpcnn train --resume" in error
    assert "Traceback" not in error
    progress = Checkpoint.load(folder / "checkpoint.safetensors").info["progress"]
    assert 0 < progress["step"] < 50 * 157
    # Going on for 50 epochs is not for a test; the resumed run itself is, at the library's level.
    assert main(["evaluate", str(folder), "--device", "cpu"]) == 0


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (TrainingDivergedError("the loss became nan"), 1, "the loss became nan"),
        (ValueError("bad\ninput"), 2, r"bad\ninput"),
        (FileNotFoundError(errno.ENOENT, "No such file", "x"), 2, "No such file: 'x'"),
        (ImportError("no Pillow"), 2, "no Pillow"),
        (MemoryError(), 3, "error: out of memory\n"),
        (MemoryError("Unable to allocate 9 GiB"), 3, "error: out of memory: Unable to allocate 9 GiB\n"),
        (MemoryError("out of memory in layer fc1"), 3, "error: out of memory in layer fc1\n"),
        (SaveError("the file cannot be written"), 3, "the file cannot be written"),
        (OSError(errno.ENOSPC, "No space left on device", "x"), 3, "No space left on device: 'x'"),
        (ZeroDivisionError("x"), 3, "a bug: ZeroDivisionError: x; please run it again with XPCNN_TRACEBACK=1"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_every_error_is_one_line_with_its_exit_code(monkeypatch, capsys, error, code, message):
    def fail():
        raise error

    monkeypatch.setattr("xpcnn.cli.devices.available_devices", fail)
    assert main(["devices"]) == code
    captured = capsys.readouterr()
    assert captured.err.startswith("xpcnn: error: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1
    monkeypatch.setenv("XPCNN_TRACEBACK", "1")
    assert main(["devices"]) == code
    assert "Traceback" in capsys.readouterr().err


def test_a_full_disk_behind_another_error_is_no_bad_input(tmp_path, monkeypatch, capsys):
    def fail(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.mkdir", fail)
    assert main(["train", "--device", "cpu", "--output", str(tmp_path / "run")]) == 3
    assert "run cannot be made: No space left on device" in capsys.readouterr().err


def test_help_names_the_exit_codes(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "exit codes: 0 done" in capsys.readouterr().out


def test_the_package_imports_nothing_before_it_is_used():
    code = """
import sys, xpcnn
assert "numpy" not in sys.modules
assert all(getattr(xpcnn, name) for name in dir(xpcnn))
assert xpcnn.Trainer is xpcnn.training.Trainer and xpcnn.device is xpcnn.backend.device
try:
    xpcnn.nothing
except AttributeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "module 'xpcnn' has no attribute 'nothing'\n"


def test_out_of_memory_names_layer_batch_and_bytes_and_what_to_try(tmp_path, few_images, monkeypatch, capsys):
    from xpcnn.nn import Conv2d

    monkeypatch.setattr(Conv2d, "forward", lambda layer, x: np.empty((1 << 30, 1 << 30), "f"))
    assert train(tmp_path / "run") == 3
    assert re.fullmatch(
        r"xpcnn: error: out of memory in layer conv1 \(Conv2d\) with a batch of 64: Unable to allocate 4.00 EiB .*"
        r"; try a smaller --batch-size or network\n",
        capsys.readouterr().err,
    )
    assert main(["parity", "record", "--output", str(tmp_path / "trace")]) == 3
    assert "in layer conv1 (Conv2d) with a batch of 32: Unable" in capsys.readouterr().err
    assert not (tmp_path / "trace").exists()
