"""Features of frozen modules, computed once: what training on them gives, and which modules they are of."""

import numpy as np
import pytest

from xpcnn import nn
from xpcnn.data import Dataset, Loader, load_dataset
from xpcnn.models import mobilenet_v2, resnet18, small_cnn
from xpcnn.optim import SGD
from xpcnn.training import Callback, Run, RunConfig, Trainer
from xpcnn.training.features import Features, frozen_modules_of


def data(rng):
    return Dataset(rng.integers(0, 256, (21, 3, 8, 8), np.uint8), rng.integers(0, 3, 21))


def network():
    rng = np.random.default_rng(0)
    layers = {
        "conv": nn.Conv2d(3, 4, 3, rng=rng),
        "bn": nn.BatchNorm2d(4),
        "relu": nn.ReLU(),
        "pool": nn.GlobalAvgPool2d(),
    }
    model = nn.Sequential(**layers, drop=nn.Dropout(0.3, rng=rng), fc=nn.Linear(4, 3, rng=rng)).freeze()
    model["fc"].unfreeze()
    return model


@pytest.mark.parametrize("precision", ["float32", "mixed"])
def test_training_on_features_is_training_on_images(precision, rng, device):
    """In the same order, with the same dropout; also evaluation, and a resumed epoch.

    In mixed precision the features are computed in float32, as they are computed once.
    """
    close = 1e-5 if precision == "float32" else 2e-3  # of the loss
    dataset, trainers = data(rng), []
    for computed in (False, True):
        model = network().to(device)
        loader = Loader(dataset, 4, shuffle=True, seed=3, device=device)
        trainer = Trainer(model, SGD(model.named_parameters(), 0.3, momentum=0.9), precision=precision)
        trainers.append(trainer)
        if not computed:
            trainer.fit(loader, 3, loader)
            continue
        assert frozen_modules_of(model) == 4
        features = Features(model, 4, loader, shuffle=True)
        assert len(features) == len(loader)
        with model.after(4):
            trainer.fit(features, 3, features)
        start = list(features.epoch(1, 2))
        for (one, labels), (other, same) in zip(start, list(features.epoch(1))[2:], strict=True):
            assert bool((one == other).all())
            assert bool((labels == same).all())
    for one, other in zip(trainers[0].records, trainers[1].records, strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=close)
        assert one["test_loss"] == pytest.approx(other["test_loss"], rel=close)
    x = device.asarray(rng.normal(size=(2, 3, 8, 8)), np.float32)
    logits = [trainer.model.eval()(x) for trainer in trainers]  # of images again
    assert float(abs(logits[0] - logits[1]).max()) < 10 * close


def test_which_modules_always_make_the_same():
    for model, head, expected in (
        (resnet18((3, 32, 32), 2, width=4), "fc", 9),
        (mobilenet_v2((3, 32, 32), 2, width_mult=0.25), "classifier.1", 2),  # before the dropout
        (small_cnn((3, 8, 8), 2), "fc2", None),
    ):
        assert frozen_modules_of(model) == 0
        model.freeze()
        dict(model.named_modules())[head].unfreeze()
        count = frozen_modules_of(model)
        first = list(model)[:count]
        assert count == (len(first) if expected is None else expected)
        assert not any(isinstance(inside, nn.Dropout) for module in first for _, inside in module.named_modules())
    assert frozen_modules_of(nn.Residual(nn.ReLU()).freeze()) == 0


def test_a_run_on_features_resumes_with_the_same_bits(tmp_path, monkeypatch):
    """Stopped within its second epoch."""
    monkeypatch.setattr(
        "xpcnn.data.sources.load_dataset", lambda name, *where: load_dataset(name, *where).subset(slice(200))
    )
    config = RunConfig(model="small_cnn", freeze_features=True, epochs=2, validation=0.1)

    class Stop(Callback):
        trainer = None

        def on_step(self, metrics):
            if self.trainer and (self.trainer.epoch, self.trainer.batch) == (1, 2):
                self.trainer.stop()

    def run(path, stops=False, **options):
        stop = Stop()
        with Run(tmp_path / path, config, device="cpu", callbacks=[stop], **options) as found:
            stop.trainer = found.trainer if stops else None
            found.fit()
        return found.trainer

    whole, stopped = run("whole"), run("stopped", stops=True)
    assert (stopped.epoch, stopped.batch) == (1, 2)
    resumed = run("stopped", resume=True)
    assert resumed.complete
    for name, array in whole.model.state_dict().items():
        np.testing.assert_array_equal(resumed.model.state_dict()[name], array, err_msg=name)
    assert [record["train_loss"] for record in resumed.records] == [record["train_loss"] for record in whole.records]
