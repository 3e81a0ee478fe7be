"""Runs: the checkpoint is what counts; configuration and history beside it follow it or are refused by name."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from xpcnn.data import load_dataset
from xpcnn.training import (
    Callback,
    Checkpoint,
    CheckpointError,
    Run,
    RunConfig,
    TrainingDivergedError,
    load_trained,
    read_history,
)
from xpcnn.training import run as run_module
from xpcnn.training.run import read_config

CONFIG = RunConfig(epochs=3)


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    """An epoch has 5 batches."""
    monkeypatch.setattr(run_module, "load_dataset", lambda *args: load_dataset(*args).subset(slice(320)))


class StopAt(Callback):
    def __init__(self, step):
        self.step, self.run, self.steps = step, None, 0

    def on_step(self, metrics):
        self.steps += 1
        if self.steps == self.step:
            self.run.trainer.stop()


def train(path, steps=0, *, resume=False):
    """Train a run to its end, or until so many steps are done."""
    stop = StopAt(steps)
    with Run(path, CONFIG, device="cpu", callbacks=[stop], resume=resume) as run:
        stop.run = run
        run.fit()
    return run


def history(path):
    times = ("seconds", "images_per_second")
    return [{k: v for k, v in r.items() if k not in times} for r in read_history(path / "history.jsonl")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The history of an uninterrupted run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "load_dataset", lambda *args: load_dataset(*args).subset(slice(320)))
        path = tmp_path_factory.mktemp("whole") / "run"
        train(path)
    return history(path)


def edit(file, change):
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))


@pytest.mark.parametrize("steps", [3, 5, 8])
def test_the_history_of_a_run_resumed_within_an_epoch_is_that_of_an_uninterrupted_one(tmp_path, whole, steps):
    train(tmp_path / "run", steps)
    assert len(history(tmp_path / "run")) == steps // 5
    run = train(tmp_path / "run", resume=True)
    assert history(tmp_path / "run") == whole
    assert read_history(tmp_path / "run" / "history.jsonl") == run.records


@pytest.mark.parametrize("damage", ["cut", "longer", "absent"])
def test_the_history_is_written_again_from_the_checkpoint(tmp_path, whole, damage):
    train(tmp_path / "run", 8)
    file = tmp_path / "run" / "history.jsonl"
    if damage == "absent":
        file.unlink()
    else:
        text = file.read_text()
        file.write_text(text[:-20] if damage == "cut" else text + text.replace('"epoch": 1', '"epoch": 2') + '{"epo')
    train(tmp_path / "run", resume=True)
    assert history(tmp_path / "run") == whole


def test_a_run_of_the_version_before_is_resumed_with_its_history(tmp_path, whole):
    train(tmp_path / "run", 12)
    new = Checkpoint.load(tmp_path / "run" / "checkpoint.safetensors")
    info = {"config": new.info["config"], "progress": {k: new.info["progress"][k] for k in ("epoch", "batch", "step")}}
    arrays = {f"model.{k}": v for k, v in new.model.items()} | {f"optimizer.{k}": v for k, v in new.optimizer.items()}
    header = {"format": "xpcnn-checkpoint", "version": "2", "info": json.dumps(info)}
    save_file(arrays, tmp_path / "run" / "checkpoint.safetensors", header)
    file = tmp_path / "run" / "history.jsonl"
    first, second = file.read_text().splitlines(keepends=True)
    third = second.replace('"epoch": 2', '"epoch": 3')  # killed after the history, before the checkpoint
    file.write_text(first + second + second + third + second[:30])
    train(tmp_path / "run", resume=True)
    found = history(tmp_path / "run")
    assert [record["epoch"] for record in found] == [1, 2, 3]
    assert found[:2] == whole[:2]
    for key in ("test_loss", "test_accuracy", "learning_rate"):
        assert found[2][key] == whole[2][key]  # the training metrics are of the rest of the epoch


def test_a_run_without_a_checkpoint_begins_again(tmp_path, whole):
    with Run(tmp_path / "run", CONFIG, device="cpu"):
        pass
    (tmp_path / "run" / ".history.jsonl.1-2.part").write_text("{")
    train(tmp_path / "run", resume=True)
    assert history(tmp_path / "run") == whole
    assert not list((tmp_path / "run").glob(".*.part"))


def test_a_run_that_lost_its_checkpoint_is_refused(tmp_path):
    train(tmp_path / "run", 8)
    (tmp_path / "run" / "checkpoint.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        train(tmp_path / "run", resume=True)


def test_a_folder_in_which_nothing_was_trained_can_be_the_output(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    (path / ".lock").touch()
    (path / ".config.json.1-2.part").write_text("{")
    with pytest.raises(ValueError, match=f"nothing was trained in {path} yet: start with --output {path}"):
        read_config(path)
    train(path, 1)
    assert not list(path.glob(".*.part"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values.update(lr="0.003"), "lr must be a number or null, got '0.003'"),
        (lambda values: values.update(batch_size=64.0), "batch_size must be a whole number, got 64.0"),
        (lambda values: values.update(epochs=4.5), "epochs must be a whole number, got 4.5"),
        (lambda values: values.update(augment="no"), "augment must be true or false, got 'no'"),
        (lambda values: values.pop("seed"), "the configuration lacks 'seed'"),
        (lambda values: values.update(speed=3), "the configuration has an unknown 'speed'"),
    ],
)
def test_a_damaged_configuration_is_refused_by_file_and_key(tmp_path, change, message):
    with Run(tmp_path / "run", CONFIG, device="cpu"):
        pass
    file = tmp_path / "run" / "config.json"
    edit(file, change)
    with pytest.raises(ValueError, match=message) as caught:
        read_config(tmp_path / "run")
    assert str(caught.value).startswith(f"{file} is damaged: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "[" * 100_000, "\xff", '{"epochs": ' + "9" * 5000 + "}"])
def test_a_configuration_that_is_none_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        read_config(tmp_path)


def test_a_configuration_that_is_no_file_is_refused(tmp_path):
    (tmp_path / "config.json").mkdir()
    with pytest.raises(ValueError, match=r"config\.json is damaged: it is not a regular file"):
        read_config(tmp_path)


def test_the_configuration_is_compared_with_the_checkpoint(tmp_path):
    train(tmp_path / "run", 1)
    edit(tmp_path / "run" / "config.json", lambda values: values.update(seed=1, lr=0.5))
    config = read_config(tmp_path / "run")
    message = r"config\.json differs from the copy in checkpoint\.safetensors: lr \(0\.5, there None\), seed \(1, "
    with pytest.raises(ValueError, match=message):
        Run(tmp_path / "run", config, device="cpu", resume=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda info: info.pop("progress"), "no training progress to resume"),
        (lambda info: info.update(progress=[]), "no training progress to resume"),
        (lambda info: info["progress"].update(epoch=-1), "no training progress to resume"),
        (lambda info: info["progress"].update(step=float("inf")), "no training progress to resume"),
        (lambda info: info.update(records=[3]), "expected a JSON object"),
        (lambda info: info.update(records={"a": 1}), "expected a JSON object"),
        (lambda info: info["metrics"].update(sums={}), "expected sums of accuracy"),
        (lambda info: info["metrics"].update(sizes=None), "metrics"),
        (lambda info: info["metrics"].pop("steps"), "metrics"),
        (lambda info: info.pop("config"), "does not describe a run"),
    ],
)
def test_a_checkpoint_of_other_contents_is_refused_in_one_line(tmp_path, change, message):
    train(tmp_path / "run", 8)
    file = tmp_path / "run" / "checkpoint.safetensors"
    checkpoint = Checkpoint.load(file)
    change(checkpoint.info)
    checkpoint.save(file)
    with pytest.raises(CheckpointError, match=message) as caught:
        train(tmp_path / "run", resume=True)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_finite_are_neither_saved_nor_used(tmp_path):
    run = train(tmp_path / "run", 8)
    file = tmp_path / "run" / "checkpoint.safetensors"
    before = file.read_bytes()
    weight = run.trainer.model.state_dict()["conv1.weight"]
    weight[0, 0, 0, :2] = np.nan, np.inf
    with pytest.raises(TrainingDivergedError, match=r"conv1\.weight has 2 values .* infinite after step 8"):
        run.save()
    assert file.read_bytes() == before

    checkpoint = Checkpoint.load(file)
    checkpoint.model["conv1.weight"] = weight
    checkpoint.save(file)
    with pytest.raises(CheckpointError, match=r"conv1\.weight has 2 values that are nan or infinite"):
        load_trained(tmp_path / "run", "cpu")
