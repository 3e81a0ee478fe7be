"""The trainer serves any loss, any batches, and a place between the backward pass and the step."""

import io

import numpy as np
import pytest
from inputs import refused
from strict_xp import DEVICE

from xpcnn import nn, viz
from xpcnn.optim import SGD, Adam, clip_grad_norm
from xpcnn.training import Callback, Metrics, ProgressBar, Table, Trainer, TrainingDivergedError, evaluate


def line(rng, count=8, size=16):
    """Return batches of points and noisy values of a linear function of them."""
    batches = []
    for _ in range(count):
        x = rng.normal(size=(size, 3)).astype(np.float32)
        batches.append((x, (x @ np.array([[1.0], [-2.0], [0.5]]) + 3 + 0.01 * rng.normal(size=(size, 1))).astype("f")))
    return batches


def regression(device, rng, **options):
    model = nn.Sequential(nn.Linear(3, 1, rng=rng)).to(device)
    return Trainer(model, Adam(model.parameters(), 0.1), nn.MSELoss(), **options)


def test_regression_from_a_list_of_batches(device, rng):
    stream = io.StringIO()
    trainer = regression(device, rng, callbacks=[Table(stream), ProgressBar(interval=0)])
    records = trainer.fit(line(rng), 40, test=line(rng, 2))
    assert records[-1]["train_loss"] < 0.01 > records[-1]["test_loss"]
    assert "train_accuracy" not in records[-1]
    heading, *lines = stream.getvalue().splitlines()
    assert heading.split("  ")[1:3] == ["train loss", "test loss"]
    assert len(lines) == 40
    assert {len(text) for text in lines} == {len(heading)}
    pytest.importorskip("matplotlib")
    assert [axes.get_ylabel() for axes in viz.curves(records).axes] == ["loss"]


def test_several_labels_for_each_image(device, rng):
    x = rng.normal(size=(64, 5)).astype(np.float32)
    target = np.stack([x[:, 0] > 0, x[:, 1] > x[:, 2], x[:, 4] < 0], axis=1).astype(np.float32)
    model = nn.Sequential(nn.Linear(5, 3, rng=rng)).to(device)
    trainer = Trainer(model, Adam(model.parameters(), 0.1), nn.BCEWithLogitsLoss())
    trainer.fit([(x, target)], 100)
    result = evaluate(model, [(x, target)], nn.BCEWithLogitsLoss())
    right = (device.to_host(model(device.asarray(x))) > 0) == (target > 0.5)
    assert result.accuracy == pytest.approx(right.mean())
    assert result.accuracy > 0.95


def test_metrics_can_be_given(device, rng):
    def absolute_error(output, target):
        return abs(output - target).sum()

    trainer = regression(device, rng, metrics={"mae": absolute_error})
    batches = line(rng)
    records = trainer.fit(batches, 1, batches)
    outputs = [device.to_host(trainer.model(device.asarray(x))) for x, _ in batches]
    errors = [np.abs(output - target).mean() for output, (_, target) in zip(outputs, batches, strict=True)]
    assert records[0]["test_mae"] == pytest.approx(np.mean(errors), rel=1e-5)
    assert Metrics({}).averages().keys() == {"loss"}


def test_any_iterable_of_batches_will_do(rng):
    batches = line(rng, 3)

    class Again:
        def __iter__(self):
            return iter(batches)

    seen = []

    class Starts(Callback):
        def on_epoch_start(self, epoch, epochs, batches):
            seen.append(batches)

    rngs = [np.random.default_rng(5) for _ in range(2)]
    listed, unsized = (regression("cpu", r, callbacks=[Starts(), ProgressBar(interval=0)]) for r in rngs)
    assert len(listed.fit(batches, 2)) == len(unsized.fit(Again(), 2)) == 2
    assert seen == [3, 3, None, None]
    np.testing.assert_array_equal(listed.model[0].weight.data, unsized.model[0].weight.data)
    with refused("there are no batches", "only once", "list or a Loader"):
        regression("cpu", rng).fit(iter(batches), 2)


def test_a_list_of_batches_is_resumed_within_an_epoch(rng):
    batches = line(rng, 5)
    whole, first, second = (regression("cpu", np.random.default_rng(5)) for _ in range(3))
    whole.fit(batches, 2)

    class Stop(Callback):
        def on_step(self, metrics):
            if first.optimizer.steps == 7:
                first.stop()

    first.callbacks.append(Stop())
    first.fit(batches, 2)
    second.resume(first.checkpoint())
    second.fit(batches, 2)
    np.testing.assert_array_equal(whole.model[0].weight.data, second.model[0].weight.data)


# -- Between the backward pass and the step ----------------------------------------------------------------------------


def test_gradients_are_clipped_before_the_step(device, rng):
    norms = []

    def clip(optimizer):
        clip_grad_norm(optimizer.parameters.values(), 0.5)
        norms.append(np.sqrt(sum((device.to_host(p.grad) ** 2).sum() for p in optimizer.parameters.values())))

    trainer = regression(device, rng, before_step=clip)
    trainer.fit(line(rng, 4), 1)
    assert trainer.optimizer.steps == 4
    assert max(norms) == pytest.approx(0.5, rel=1e-4)


def test_gradients_of_several_batches_make_one_step(device, rng):
    """Four batches of 16 with summed gradients, divided by 4, are one batch of 64."""
    (x, y), start = line(rng, 1, 64)[0], rng.normal(size=(1, 3)).astype(np.float32)
    calls = []

    def every_fourth(optimizer):
        calls.append(optimizer.steps)
        if len(calls) % 4:
            return False
        for gradients in optimizer.gather():
            gradients /= 4
        return True

    trainers = [regression(device, rng, before_step=hook) for hook in (None, every_fourth)]
    for trainer in trainers:
        trainer.model.load_state_dict({"0.weight": start, "0.bias": np.zeros(1)})
    trainers[0].fit([(x, y)], 3)
    trainers[1].fit([(x[i : i + 16], y[i : i + 16]) for i in range(0, 64, 16)], 3)
    assert [trainer.optimizer.steps for trainer in trainers] == [3, 3]
    assert calls == [0] * 4 + [1] * 4 + [2] * 4
    whole, parts = (device.to_host(trainer.model[0].weight.data) for trainer in trainers)
    np.testing.assert_allclose(parts, whole, rtol=1e-5)


def test_the_step_of_a_divergence_is_that_of_the_optimizer(rng):
    """Where several batches make a step, the step is named, not the batch."""
    calls = []
    trainer = regression("cpu", rng, before_step=lambda optimizer: calls.append(1) or len(calls) % 2 == 0)
    batches = line(rng, 6)
    batches[4] = (batches[4][0], np.full_like(batches[4][1], np.inf))
    with pytest.raises(TrainingDivergedError, match=r"inf at step 3 \(learning rate 0.1\)"):
        trainer.fit(batches, 1)


# -- Labels out of range -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [nn.CrossEntropyLoss, nn.HingeLoss])
@pytest.mark.parametrize("label", [-1, 4])
def test_labels_on_the_host_are_checked_by_the_loss_itself(make, label, device, rng):
    logits = device.asarray(rng.normal(size=(3, 4)).astype(np.float32))
    labels = np.array([0, label, 3])
    with refused("expected labels from 0 to 3", str(label)):
        make()(logits, labels)
    with refused("expected labels from 0 to 3", str(label)):
        nn.L2Penalty(make(), nn.Linear(2, 2), 0.1)(logits, labels)


@pytest.mark.parametrize("make", [nn.CrossEntropyLoss, nn.HingeLoss])
@pytest.mark.parametrize("label", [-1, 4])
def test_labels_on_a_gpu_give_a_loss_that_is_nan(make, label, rng):
    logits = DEVICE.asarray(rng.normal(size=(3, 4)).astype(np.float32))
    assert np.isfinite(DEVICE.to_host(make()(logits, DEVICE.asarray(np.array([0, 2, 3])))))
    assert np.isnan(DEVICE.to_host(make()(logits, DEVICE.asarray(np.array([0, label, 3])))))


def test_such_a_loss_is_named_when_it_is_read(rng):
    model = nn.Sequential(nn.Linear(3, 4, rng=rng)).to(DEVICE)
    x, labels = rng.normal(size=(5, 3)).astype(np.float32), np.array([0, 1, 2, 3, 4])
    trainer = Trainer(model, SGD(model.parameters(), 0.1))
    batches = [(DEVICE.asarray(x), DEVICE.asarray(labels))]
    with pytest.raises(TrainingDivergedError, match=r"nan at step 1 .*a label is none of the network's classes"):
        trainer.fit(batches, 1)
