"""The exponential moving average of weights: what it is, who sees it, and that training does not notice it."""

import numpy as np
import pytest
from strict_xp import DEVICE, count_host_reads

from xpcnn.backend import to_host
from xpcnn.data import Loader, load_dataset
from xpcnn.nn import BatchNorm1d, Flatten, Linear, ReLU, Sequential
from xpcnn.optim import AdamW, CosineSchedule
from xpcnn.training import EMA, Callback, Checkpoint, Trainer, evaluate, predict

DIGITS = load_dataset("mnist-mini").subset(slice(320))


def loader(**options):
    return Loader(DIGITS, 32, shuffle=True, mean=(0.13,), std=(0.31,), **options)


def make_trainer(device="cpu", dtype="f", **options):
    rng = np.random.default_rng(3)
    layers = Flatten(), Linear(784, 16, rng=rng), BatchNorm1d(16), ReLU(), Linear(16, 10, rng=rng)
    model = Sequential(*layers).to(device, np.dtype(dtype))
    options = {"ema": 0.9} | options
    return Trainer(model, AdamW(model.named_parameters(), CosineSchedule(0.01, 30, 3)), **options)


def host(state):
    return {name: np.array(to_host(array)) for name, array in state.items()}


def same(one, other):
    return one.keys() == other.keys() and all((one[name] == other[name]).all() for name in one)


class Kept(Callback):
    """Keeps the weights after each step, and stops at one of them."""

    def __init__(self, stop=None):
        self.stop, self.trainer, self.states = stop, None, []

    def on_step(self, metrics):
        self.states.append(host(self.trainer.model.state_dict()))
        if len(self.states) == self.stop:
            self.trainer.stop()

    @classmethod
    def of(cls, trainer, stop=None):
        kept = cls(stop)
        kept.trainer = trainer
        trainer.callbacks.append(kept)
        return kept


def test_it_is_the_mean_of_the_weights_of_all_steps_with_falling_weights(device):
    trainer = make_trainer(device, "d")
    kept = Kept.of(trainer)
    trainer.fit(loader(dtype="d"), 2)
    factors = 0.9 ** np.arange(20.0)[::-1]
    for name, found in host(trainer.model.state_dict()).items():
        steps = [state[name] for state in kept.states]
        if found.dtype.kind == "f":  # batch norm's running averages among them
            expected = sum(factor * values for factor, values in zip(factors, steps, strict=True)) / factors.sum()
            np.testing.assert_allclose(found, expected, 1e-12, 1e-14)
        else:
            assert found == steps[-1] == 20
    assert not same(host(trainer.model.state_dict()), kept.states[-1])


def test_the_average_is_evaluated_and_saved_and_training_goes_on_without_it(tmp_path):
    plain, trainer = make_trainer(ema=None), make_trainer()
    (weights,), (kept,) = [[Kept.of(each)] for each in (plain, trainer)]
    plain.fit(loader(), 3)
    records = [*trainer.fit(loader(), 1, loader()), *trainer.fit(loader(), 3, loader())]
    assert all(same(one, other) for one, other in zip(weights.states, kept.states, strict=True))

    averages = host(trainer.model.state_dict())
    trainer.checkpoint().save(tmp_path / "c")
    checkpoint = Checkpoint.load(tmp_path / "c")
    assert same(checkpoint.model, averages)
    assert same(checkpoint.training, kept.states[-1])
    found = evaluate(trainer.model, loader())
    assert records[-1]["test_loss"] == found.loss
    assert records[-1]["test_loss"] != evaluate(plain.model, loader()).loss


def test_a_loop_of_ones_own_evaluates_the_average_too():
    trainer, finished = make_trainer(), make_trainer()
    finished.fit(loader(), 1)
    for images, labels in loader().epoch(0):
        trainer.train_step(images, labels)
    trainer.spec = finished.spec
    weights = host(trainer.model.state_dict())
    assert trainer.evaluate(loader()) == finished.evaluate(loader())
    np.testing.assert_array_equal(trainer.predict(DIGITS.images), predict(finished.model, DIGITS.images, trainer.spec))
    assert same(host(trainer.model.state_dict()), weights)


@pytest.mark.parametrize("stop", [None, 3, 10, 17], ids=["before the first step", "step 3", "one epoch", "step 17"])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path, stop):
    whole, first, second = make_trainer(), make_trainer(), make_trainer()
    expected = whole.fit(loader(), 3, loader())
    if stop is not None:
        Kept.of(first, stop)
        first.fit(loader(), 3, loader())
    first.checkpoint().save(tmp_path / "c")
    second.resume(Checkpoint.load(tmp_path / "c"))
    second.fit(loader(), 3, loader())
    assert same(host(second.model.state_dict()), host(whole.model.state_dict()))
    assert same(host(second.checkpoint().training), host(whole.checkpoint().training))
    for record, same_record in zip(second.records, expected, strict=True):
        assert record["test_loss"] == same_record["test_loss"]


def test_best_weights_are_averages_from_which_training_continues():
    trainer = make_trainer()
    trainer.fit(loader(), 2, validation=loader())
    assert trainer.best["epoch"] == 2
    assert same(trainer.best_weights, host(trainer.model.state_dict()))
    trainer.restore_best()
    trainer.optimizer.lr = 0.0
    kept = Kept.of(trainer, 1)
    trainer.fit(loader(), 3)
    np.testing.assert_array_equal(kept.states[0]["1.weight"], trainer.best_weights["1.weight"])
    assert same(host(trainer.model.state_dict()), kept.states[0])


def test_steps_that_are_left_out_are_not_averaged():
    trainer = make_trainer(before_step=lambda optimizer: trainer.metrics.samples % 64 > 0)
    trainer.fit(loader(), 1)
    assert trainer.ema.steps == trainer.optimizer.steps == 5


def test_an_update_reads_nothing_back_from_the_device():
    trainer = make_trainer(DEVICE)
    trainer.train_step(*next(iter(loader())))
    with count_host_reads() as reads:
        trainer.ema.update()
    assert reads.count == 0
    assert trainer.ema.steps == 2


@pytest.mark.parametrize("decay", [-0.1, 1, float("nan")])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(ValueError, match="at least 0 and below 1, got"):
        EMA(Linear(2, 2), decay)


def test_a_checkpoint_of_training_with_an_average_does_not_fit_training_without():
    plain, trainer = make_trainer(ema=None), make_trainer()
    with pytest.raises(ValueError, match="has averaged weights"):
        plain.resume(trainer.checkpoint())
    with pytest.raises(ValueError, match="has no averaged weights"):
        trainer.resume(plain.checkpoint())
