"""Runs: the checkpoint is what counts; configuration and history beside it follow it or are refused by name."""

import json
from dataclasses import replace

import numpy as np
import pytest
from helpers import read_few
from safetensors.numpy import save_file

from xpcnn.data import Dataset, class_weights, load_dataset, sources
from xpcnn.data.npz import read_npz
from xpcnn.training import (
    Callback,
    Checkpoint,
    CheckpointError,
    Run,
    RunConfig,
    TrainingDivergedError,
    evaluate,
    load_trained,
    read_history,
)
from xpcnn.training import trainer as trainer_module
from xpcnn.training.run import read_config

CONFIG = RunConfig(epochs=3)
# Of 8 epochs with 8 batches each, the third is the best, and the fourth the last one trained.
VALIDATED = RunConfig(epochs=8, validation=0.2, patience=1, batch_size=32, lr=0.01, augment="none")


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    """An epoch has 5 batches."""
    read_few(monkeypatch, 320)


class StopAt(Callback):
    def __init__(self, step):
        self.step, self.run, self.steps = step, None, 0

    def on_step(self, metrics):
        self.steps += 1
        if self.steps == self.step:
            self.run.trainer.stop()


def train(path, steps=0, *, resume=False, config=CONFIG):
    """Train a run to its end, or until so many steps are done."""
    stop = StopAt(steps)
    with Run(path, config, device="cpu", callbacks=[stop], resume=resume) as run:
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
        read_few(patch, 320)
        path = tmp_path_factory.mktemp("whole") / "run"
        train(path)
    return history(path)


def edit(file, change):
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))


def test_class_weights_are_those_of_the_training_images(tmp_path):
    with Run(tmp_path / "run", replace(CONFIG, class_weights=True), device="cpu") as run:
        np.testing.assert_array_equal(run.trainer.loss.weight, class_weights(run.loader.dataset))


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
        (lambda values: values.update(skip_bad="no"), "skip_bad must be true or false, got 'no'"),
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


def weights(path):
    return {name: array.tobytes() for name, array in load_trained(path, "cpu").model.state_dict().items()}


def outcome(path):
    """Return all that a run with validation ends with, without its times."""
    last, best = (Checkpoint.load(path / f"{name}.safetensors") for name in ("checkpoint", "best"))
    states = [{k: v.tobytes() for k, v in state.items()} for state in (last.model, last.optimizer, last.best)]
    return states, weights(path), history(path), best.info["record"]["epoch"], best.info["test"], last.info["test"]


@pytest.fixture
def measured(monkeypatch):
    """The number of images in each evaluation: 64 held out, or 320 for testing."""
    sizes, evaluation = [], evaluate

    def noted(model, loader, *options):
        sizes.append(len(loader.dataset))
        return evaluation(model, loader, *options)

    monkeypatch.setattr(trainer_module, "evaluate", noted)
    return sizes


def test_a_run_ends_with_the_best_weights_and_uses_the_test_images_once(tmp_path, measured):
    run = train(tmp_path / "run", config=VALIDATED)
    assert [record["epoch"] for record in run.records] == [1, 2, 3, 4]
    assert min(run.records, key=lambda record: record["validation_loss"]) == run.trainer.best == run.records[2]
    assert not any(key.startswith("test_") for record in run.records for key in record)
    assert measured == [64, 64, 64, 64, 320]

    trained = load_trained(tmp_path / "run", "cpu")
    result = evaluate(trained.model, run.test)
    assert run.tested == {"epoch": 3, "loss": result.loss, "accuracy": result.accuracy}
    held_out = evaluate(trained.model, run.validation)
    assert (held_out.loss, held_out.accuracy) == tuple(run.records[2][f"validation_{k}"] for k in ("loss", "accuracy"))
    of_model = {name: array.tobytes() for name, array in run.trainer.model.state_dict().items()}
    assert of_model == weights(tmp_path / "run") == weights(tmp_path / "run" / "best.safetensors")
    assert of_model != weights(tmp_path / "run" / "checkpoint.safetensors")

    before = outcome(tmp_path / "run")
    again = train(tmp_path / "run", resume=True, config=VALIDATED)
    assert (again.tested, again.trainer.complete, len(measured)) == (run.tested, True, 5)
    assert {name: array.tobytes() for name, array in again.trainer.model.state_dict().items()} == of_model
    assert outcome(tmp_path / "run") == before


def test_without_validation_the_test_images_are_used_after_each_epoch_and_the_last_weights_stay(tmp_path, measured):
    run = train(tmp_path / "run")
    last = run.records[-1]
    assert run.tested == {"epoch": 3, "loss": last["test_loss"], "accuracy": last["test_accuracy"]}
    assert Checkpoint.load(tmp_path / "run" / "checkpoint.safetensors").info["test"] == run.tested
    assert measured == [320, 320, 320]
    assert not (tmp_path / "run" / "best.safetensors").exists()


def test_a_run_with_averaged_weights_is_measured_kept_and_resumed_with_them(tmp_path):
    config = replace(CONFIG, ema=0.9)
    train(tmp_path / "whole", config=config)
    train(tmp_path / "run", 8, config=config)
    run = train(tmp_path / "run", config=config, resume=True)
    assert history(tmp_path / "run") == history(tmp_path / "whole")
    checkpoint = Checkpoint.load(tmp_path / "run" / "checkpoint.safetensors")
    assert (checkpoint.training["conv1.weight"] != checkpoint.model["conv1.weight"]).any()
    assert evaluate(load_trained(tmp_path / "run", "cpu").model, run.test).averages()["loss"] == run.tested["loss"]


@pytest.fixture(scope="module")
def validated(tmp_path_factory):
    """What an uninterrupted run with validation ends with."""
    with pytest.MonkeyPatch.context() as patch:
        read_few(patch, 320)
        path = tmp_path_factory.mktemp("validated") / "run"
        train(path, config=VALIDATED)
    return outcome(path)


class KilledError(BaseException):
    """Stands for `kill -9`."""


# The checkpoint and the history are written at the start, after each of four epochs, and with the test figures; the
# best weights after three epochs, and with the test figures.
@pytest.mark.parametrize("write", ["checkpoint 4", "best 3", "history 4", "checkpoint 6", "best 4", "history 6"])
def test_a_run_killed_before_any_of_its_writes_ends_as_an_uninterrupted_one(tmp_path, monkeypatch, validated, write):
    written, whole = [], Run._write

    def killed(run, file, function):
        written.append(file.partition(".")[0])
        if write == f"{written[-1]} {written.count(written[-1])}":
            raise KilledError
        whole(run, file, function)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "_write", killed)
        with pytest.raises(KilledError):
            train(tmp_path / "run", config=VALIDATED)
    weights(tmp_path / "run")  # can be used as they are
    train(tmp_path / "run", resume=True, config=VALIDATED)
    assert outcome(tmp_path / "run") == validated


@pytest.mark.parametrize("steps", [3, 24, 27])
def test_a_run_with_validation_stopped_anywhere_ends_as_an_uninterrupted_one(tmp_path, validated, steps):
    stopped = train(tmp_path / "run", steps, config=VALIDATED)
    assert (stopped.trainer.complete, stopped.tested) == (False, None)
    train(tmp_path / "run", resume=True, config=VALIDATED)
    assert outcome(tmp_path / "run") == validated


def test_images_are_held_out_of_each_class_by_the_seed(tmp_path):
    everything = load_dataset("mnist-mini").subset(slice(320))
    held_out = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        with Run(tmp_path / name, RunConfig(epochs=1, patience=2, seed=seed), device="cpu") as run:
            parts = [run.loader.dataset, run.validation.dataset]
        assert [len(part) for part in parts] == [288, 32]
        images = [image.tobytes() for part in parts for image in part.images]
        assert sorted(images) == sorted(image.tobytes() for image in everything.images)
        assert np.abs(np.bincount(parts[1].labels) - np.bincount(everything.labels) / 10).max() <= 1
        held_out.append(parts[1].images.tobytes())
    assert held_out[0] == held_out[1] != held_out[2]


def test_a_folder_copied_elsewhere_predicts_without_its_data(tmp_path, rng):
    labels = np.arange(80) % 2
    images = rng.normal(labels[:, None, None, None] * 3 + 40, 5, (80, 1, 28, 28)).astype(np.float32)
    file = tmp_path / "data.npz"
    np.savez(file, x_train=images[:60], y_train=labels[:60], x_test=images[60:], y_test=labels[60:])
    run = train(tmp_path / "run", config=RunConfig(data=str(file), epochs=2, validation=0.25, batch_size=8))
    expected = run.trainer.predict(images)
    assert run.loader.dataset.mean != read_npz(file)[0].mean  # by the images trained on
    assert run.test.spec == run.validation.spec == run.loader.spec

    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").rename(tmp_path / "elsewhere" / "run")
    file.unlink()
    trained = load_trained(tmp_path / "elsewhere" / "run", "cpu")
    np.testing.assert_array_equal(trained.predict(images), expected)
    assert trained.spec == run.loader.spec


def test_a_class_of_one_image_cannot_be_held_out(tmp_path, monkeypatch):
    images = np.zeros((5, 28, 28), np.uint8)
    monkeypatch.setattr(sources, "load_dataset", lambda *_: Dataset(images, ["a", "a", "b", "b", "c"]))
    with pytest.raises(ValueError, match="needs two samples of each class, got one of c"):
        Run(tmp_path / "run", RunConfig(validation=0.1), device="cpu")
    assert not (tmp_path / "run").exists()


def test_damaged_test_figures_are_refused(tmp_path):
    train(tmp_path / "run")
    file = tmp_path / "run" / "checkpoint.safetensors"
    checkpoint = Checkpoint.load(file)
    checkpoint.info["test"] = [1]
    checkpoint.save(file)
    with pytest.raises(CheckpointError, match="expected a JSON object"):
        train(tmp_path / "run", resume=True)
