"""The training loop: it learns, repeats and resumes with the same bits, and stops with a clear word when it must."""

import numpy as np
import pytest
from strict_xp import count_host_reads

from xpcnn.data import Loader, RandomShift, load_dataset
from xpcnn.models import lenet5
from xpcnn.nn import Dropout, Flatten, Linear, ReLU, Sequential
from xpcnn.optim import SGD, AdamW, CosineSchedule
from xpcnn.training import Callback, Checkpoint, CheckpointError, Trainer, TrainingDivergedError, evaluate

DIGITS = load_dataset("mnist-mini").subset(slice(320))


def make_loader(**options):
    return Loader(DIGITS, 32, shuffle=True, mean=(0.13,), std=(0.31,), **options)


def make_trainer(device="cpu", **options):
    rng = np.random.default_rng(3)
    model = Sequential(Flatten(), Linear(784, 32, rng=rng), ReLU(), Dropout(0.2, rng=rng), Linear(32, 10, rng=rng)).to(
        device
    )
    optimizer = AdamW(model.named_parameters(), CosineSchedule(0.01, 30, 3))
    return Trainer(model, optimizer, **options)


class StopAt(Callback):
    """Asks a trainer to stop after so many steps."""

    def __init__(self, steps):
        self.steps, self.trainer, self.events = steps, None, []

    def on_step(self, metrics):
        if self.trainer.optimizer.steps == self.steps:
            self.trainer.stop()

    def on_interrupt(self):
        self.events.append("interrupt")

    def on_stop(self):
        self.events.append("stop")


def host_state(trainer):
    device = trainer.model.device
    return {name: device.to_host(array) for name, array in trainer.model.state_dict().items()}


def assert_same_bits(actual, expected):
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(actual[name], array, err_msg=name)


def test_training_learns_on_every_device(device):
    trainer = make_trainer(device)
    records = trainer.fit(make_loader(), 3, make_loader())
    assert [record["epoch"] for record in records] == [1, 2, 3]
    assert records[-1]["step"] == 30
    assert records[-1]["train_loss"] < 0.5 * records[0]["train_loss"]
    result = evaluate(trainer.model, make_loader())
    assert result.accuracy == records[-1]["test_accuracy"] > 0.75
    assert trainer.model.device is device


def test_a_step_reads_nothing_back_from_the_device():
    from strict_xp import DEVICE

    trainer = make_trainer(DEVICE)
    images, labels = next(iter(make_loader()))
    trainer.train_step(images, labels)
    with count_host_reads() as reads:
        trainer.train_step(images, labels)
    assert reads.count == 0


@pytest.mark.parametrize("steps", [7, 10, 23], ids=["mid-epoch", "between epochs", "third epoch"])
def test_a_resumed_run_ends_with_the_bits_of_an_uninterrupted_one(tmp_path, steps):
    loader = make_loader(transform=RandomShift(2), seed=5)
    whole = make_trainer()
    whole.fit(loader, 3)

    stop = StopAt(steps)
    first = make_trainer(callbacks=[stop])
    stop.trainer = first
    first.fit(loader, 3)
    assert first.interrupted
    assert stop.events == ["interrupt", "stop"]
    assert first.optimizer.steps == steps
    first.checkpoint().save(tmp_path / "c.safetensors")

    second = make_trainer()
    second.resume(Checkpoint.load(tmp_path / "c.safetensors"))
    second.fit(loader, 3)
    assert not second.interrupted
    assert second.optimizer.steps == whole.optimizer.steps == 30
    assert_same_bits(host_state(second), host_state(whole))


def test_a_stop_before_training_counts_for_the_next_fit_only():
    trainer = make_trainer()
    trainer.stop()
    assert trainer.fit(make_loader(), 1) == []
    assert trainer.interrupted
    assert len(trainer.fit(make_loader(), 1)) == 1
    assert not trainer.interrupted


def test_resuming_needs_progress_and_the_same_model():
    trainer = make_trainer()
    with pytest.raises(CheckpointError, match="no training progress"):
        trainer.resume(Checkpoint(trainer.model.state_dict()))
    model = lenet5()
    other = Trainer(model, SGD(model.named_parameters(), 0.1))
    with pytest.raises(ValueError, match=r"missing .*conv1\.weight"):
        other.resume(trainer.checkpoint())


def test_an_optimizer_of_another_model_is_refused():
    model, other = lenet5(), lenet5()
    with pytest.raises(ValueError, match=r"another model: its parameter 'conv1\.weight'"):
        Trainer(model, SGD(other.named_parameters(), 0.1))
    with pytest.raises(ValueError, match="another model"):
        Trainer(model, SGD([*model.parameters(), *other.parameters()], 0.1))
    Trainer(model, SGD(list(model.parameters())[:2], 0.1))  # only some of them


class Weights(Callback):
    """Keeps the weights of each epoch."""

    def __init__(self):
        self.trainer, self.of_epoch = None, {}

    def on_epoch_end(self, record):
        self.of_epoch[record["epoch"]] = {name: array.copy() for name, array in host_state(self.trainer).items()}


@pytest.mark.parametrize(
    ("patience", "last", "best"), [(1, 3, 2), (2, 4, 2), (3, 6, 5), (None, 6, 5)], ids=lambda value: f"{value}"
)
def test_patience_waits_so_many_epochs_for_a_lower_validation_loss(device, monkeypatch, patience, last, best):
    losses = [3.0, 2.0, 2.5, 2.0, 1.9, 2.1]  # one that is equal is no better
    weights = Weights()
    trainer = weights.trainer = make_trainer(device, callbacks=[weights])
    monkeypatch.setattr(trainer, "evaluate", lambda batches, part: {"loss": losses[trainer.epoch - 1]})
    records = trainer.fit(make_loader(), 6, validation=make_loader(), patience=patience)
    assert [record["validation_loss"] for record in records] == losses[:last]
    assert trainer.best == records[best - 1]
    assert trainer.complete
    assert_same_bits(host_state(trainer), weights.of_epoch[last])
    trainer.restore_best()
    assert_same_bits(host_state(trainer), weights.of_epoch[best])


def test_records_have_the_figures_of_each_part():
    trainer = make_trainer()
    other = Loader(load_dataset("mnist-mini", "test").subset(slice(64)), 32, mean=(0.13,), std=(0.31,))
    (record,) = trainer.fit(make_loader(), 1, other, validation=make_loader())
    for part, loader in (("validation", make_loader()), ("test", other)):
        measured = evaluate(trainer.model, loader)
        assert trainer.evaluate(loader) == measured.averages()
        assert (record[f"{part}_loss"], record[f"{part}_accuracy"]) == (measured.loss, measured.accuracy)


def test_what_validation_needs_is_said():
    trainer = make_trainer()
    with pytest.raises(ValueError, match="needs validation batches, got 3"):
        trainer.fit(make_loader(), 1, make_loader(), patience=3)
    with pytest.raises(ValueError, match="at least 1"):
        trainer.fit(make_loader(), 1, validation=make_loader(), patience=0)
    with pytest.raises(ValueError, match="the validation images differ from the training images in mean"):
        trainer.fit(make_loader(), 1, validation=Loader(DIGITS, 32, mean=(0.5,), std=(0.31,)))
    with pytest.raises(ValueError, match="no validation batches"):
        trainer.restore_best()
    assert trainer.optimizer.steps == 0


def test_a_checkpoint_is_a_copy_with_the_best_weights(tmp_path, monkeypatch):
    trainer = make_trainer()
    trainer.fit(make_loader(), 1, validation=make_loader())
    before = {name: array.copy() for name, array in host_state(trainer).items()}
    checkpoint = trainer.checkpoint()
    monkeypatch.setattr(trainer, "evaluate", lambda batches, part: {"loss": 9.0})
    trainer.fit(make_loader(), 2, validation=make_loader())
    assert_same_bits(checkpoint.model, before)
    trainer.checkpoint().save(tmp_path / "c")

    other = make_trainer()
    other.resume(Checkpoint.load(tmp_path / "c"))
    assert_same_bits(host_state(other), host_state(trainer))
    other.restore_best()
    assert_same_bits(host_state(other), before)
    checkpoint.best = {}
    with pytest.raises(CheckpointError, match="best weights"):
        other.resume(checkpoint)


def test_a_diverging_loss_stops_training_with_step_and_rate():
    trainer = make_trainer()
    trainer.optimizer = SGD(trainer.model.named_parameters(), 1e30)
    saved = []

    class Save(Callback):
        def on_epoch_end(self, record):
            saved.append(record)

        def on_interrupt(self):
            saved.append("interrupt")

    trainer.callbacks.append(Save())
    with pytest.raises(TrainingDivergedError, match=r"nan|inf") as caught:
        trainer.fit(make_loader(), 2)
    # The first step's loss is that of the initial weights; the second one sees what a huge step made of them.
    assert "at step 2 (learning rate 1e+30" in str(caught.value)
    assert not saved


def test_bad_batches_are_refused_before_they_do_harm():
    trainer = make_trainer()
    images, labels = next(iter(make_loader()))
    before = {name: array.copy() for name, array in host_state(trainer).items()}
    holed = images.copy()
    holed[3, 0, 5, 5] = np.nan
    with pytest.raises(ValueError, match="1 values that are nan or infinite"):
        trainer.train_step(holed, labels)
    with pytest.raises(ValueError, match="expected labels from 0 to 9, got -1 to"):
        trainer.train_step(images, np.where(labels == labels.max(), -1, labels))
    with pytest.raises(ValueError, match=r"expected labels from 0 to 9, got .* to 10"):
        trainer.train_step(images, np.where(labels == labels.max(), 10, labels))
    with pytest.raises(ValueError, match="as many targets as inputs, got 31 for 32"):
        trainer.train_step(images, labels[:31])
    with pytest.raises(ValueError, match=r"1 \(Linear\): expected input \(N, 784\).*\(32, 196\)"):
        trainer.train_step(images[:, :, ::2, ::2], labels)
    assert_same_bits(host_state(trainer), before)


def test_evaluation_restores_the_mode_and_leaves_dropout_out():
    trainer = make_trainer()
    trainer.model.train()
    first, second = (evaluate(trainer.model, make_loader()).loss for _ in range(2))
    assert first == second
    assert trainer.model.training
    assert all(module.calls == 0 for module in trainer.model if isinstance(module, Dropout))
