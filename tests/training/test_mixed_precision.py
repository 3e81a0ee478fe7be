"""Training in mixed precision: as accurate as float32, the same bits after a resume, skipped steps, no host reads."""

import numpy as np
import pytest
from strict_xp import DEVICE, count_operations, forbid_host_reads

from xpcnn import Trainer, models
from xpcnn.data import Loader, load_dataset
from xpcnn.nn import BatchNorm1d, CrossEntropyLoss, Flatten, Linear, ReLU, Sequential, autocast
from xpcnn.optim import SGD, AdamW, GradScaler, clip_grad_norm
from xpcnn.training import Checkpoint, CheckpointError

DIGITS = load_dataset("mnist-mini").subset(slice(320))


def make_trainer(device, precision="mixed", **options):
    rng = np.random.default_rng(3)
    layers = Flatten(), Linear(784, 32, rng=rng), BatchNorm1d(32), ReLU(), Linear(32, 10, rng=rng)
    model = Sequential(*layers).to(device)
    return Trainer(model, AdamW(model.named_parameters(), 0.01), precision=precision, **options)


def loader():
    return Loader(DIGITS, 32, shuffle=True)


def host_state(trainer, *, buffers=True):
    state = trainer.model.state_dict() if buffers else {name: p.data for name, p in trainer.model.named_parameters()}
    return {name: np.array(trainer.model.device.to_host(array)) for name, array in state.items()}


def assert_same_bits(actual, expected):
    for name, array in expected.items():
        np.testing.assert_array_equal(actual[name], array, err_msg=name)


def test_lenet5_learns_as_in_float32():
    train, test = (load_dataset("mnist-mini", part) for part in ("train", "test"))
    train, test = train.subset(slice(2000)), test.subset(slice(1000))
    accuracies = {}
    for precision in ("float32", "mixed"):
        model = models.lenet5(train.shape, 10, seed=0)
        trainer = Trainer(model, AdamW(model.named_parameters(), 0.003), precision=precision)
        records = trainer.fit(Loader(train, 64, shuffle=True), 3, Loader(test, 250))
        accuracies[precision] = records[-1]["test_accuracy"]
    assert accuracies["mixed"] > 0.9
    assert abs(accuracies["mixed"] - accuracies["float32"]) < 0.02  # two standard deviations of 1,000 images


def test_every_device_trains_without_reading(device):
    trainer = make_trainer(device)
    trainer.fit(loader(), 2)
    assert trainer.records[-1]["train_loss"] < trainer.records[0]["train_loss"]
    images, labels = next(iter(loader()))
    images = device.asarray(images)
    with forbid_host_reads():
        trainer.train_step(images, device.asarray(labels))


def test_a_hand_written_loop_has_the_trainer_s_bits(device):
    trainer, other = make_trainer(device), make_trainer(device)
    model, optimizer, loss, scaler = other.model, other.optimizer, CrossEntropyLoss(), GradScaler()
    for images, labels in list(loader())[:3]:
        trainer.train_step(images, labels)
        inputs, targets = device.asarray(images), device.asarray(labels)
        optimizer.zero_grad()
        with autocast("mixed", model.device):
            loss(model(inputs), targets)
            model.backward(scaler.scale(loss.backward()), input_gradient=False)
        scaler.unscale(optimizer)
        scaler.step(optimizer)
    assert_same_bits(host_state(other), host_state(trainer))


def test_an_overflow_leaves_the_weights_alone(device):
    trainer = make_trainer(device)
    trainer.scaler.load_state_dict({"scale": 2.0**30, "good_steps": 0})  # more than float16's largest number
    before = host_state(trainer, buffers=False)  # running averages are of the forward pass
    images, labels = next(iter(loader()))
    trainer.fit([(images, labels)], 1)
    assert_same_bits(host_state(trainer), before)
    assert trainer.scaler.state_dict() == {"scale": 2.0**29, "good_steps": 0}
    trainer.train_step(images, labels)  # without a warning
    trainer.fit([(images, labels)] * 14, 2)
    assert trainer.scaler.state_dict()["scale"] < 2.0**24
    assert any((host_state(trainer)[name] != array).any() for name, array in before.items())


def test_a_resumed_run_has_the_same_bits(device, tmp_path):
    whole, first, second = (make_trainer(device) for _ in range(3))
    for trainer in (whole, first):
        trainer.scaler.growth_interval = 13  # so that it grows after the checkpoint
        trainer.fit(loader(), 1)
    first.checkpoint().save(tmp_path / "checkpoint")
    second.scaler.growth_interval = 13
    second.resume(Checkpoint.load(tmp_path / "checkpoint"))
    assert second.scaler.state_dict() == {"scale": 2.0**16, "good_steps": 10}
    for trainer in (whole, second):
        trainer.fit(loader(), 2)
    assert_same_bits(host_state(second), host_state(whole))
    assert second.scaler.state_dict() == whole.scaler.state_dict() == {"scale": 2.0**17, "good_steps": 7}


def test_a_damaged_loss_scale_is_named():
    trainer = make_trainer("cpu")
    trainer.fit(loader(), 1)
    checkpoint = trainer.checkpoint()
    checkpoint.info["loss_scale"] = "large"
    with pytest.raises(CheckpointError, match="the checkpoint's loss scale cannot be resumed"):
        trainer.resume(checkpoint)


def test_before_step_sees_gradients_without_the_scale(device):
    norms = {}
    for precision in ("float32", "mixed"):
        found = norms[precision] = []

        def before_step(optimizer, found=found):
            found.append(float(clip_grad_norm(optimizer.parameters.values(), 1e9)))
            return len(found) % 2 == 0  # two batches for each step

        make_trainer(device, precision, before_step=before_step).fit(loader(), 1)
    np.testing.assert_allclose(norms["mixed"], norms["float32"], 0.05)


def test_a_step_is_few_more_operations(monkeypatch):
    for attribute, value in {"tile_bytes": 256 << 20, "launch_bytes": 48 << 20, "small_product": 0}.items():
        monkeypatch.setattr(DEVICE, attribute, value)
    monkeypatch.setattr(DEVICE, "parts", lambda work, at_most=None: 1)
    counts = {}
    for precision in ("float32", "mixed"):
        model = models.lenet5((1, 28, 28)).to(DEVICE)
        optimizer = SGD(model.named_parameters(), 0.01, momentum=0.9)
        trainer = Trainer(model, optimizer, CrossEntropyLoss(), precision=precision)
        images = DEVICE.asarray(np.random.default_rng(0).normal(size=(28, 28, 2)).astype(np.float32))
        images, labels = images.transpose(2, 0, 1)[:, None], DEVICE.asarray(np.arange(2))
        for _ in range(2):
            with count_operations() as counter:
                trainer.train_step(images, labels)
        counts[precision] = counter.count
    # 28 of them convert both operands of the 14 products to float32, which a GPU does not.
    assert 28 < counts["mixed"] - counts["float32"] <= 62


def test_tf32_is_asked_of_the_device(device):
    trainer = make_trainer(device, "tf32")
    if device.name.startswith("cuda"):
        pytest.skip("a GPU may have it")
    with pytest.raises(ValueError, match="TF32 was asked for"):
        trainer.fit(loader(), 1)
