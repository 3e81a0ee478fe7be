"""Predictions: the loader's pixels, whatever the images come as, in parts, and a model left as it was."""

import numpy as np
import pytest

from xpcnn.backend import to_host
from xpcnn.data import Dataset, Loader
from xpcnn.functional import softmax_forward
from xpcnn.nn import BatchNorm2d, Conv2d, Dropout, Flatten, Linear, Module, Sequential
from xpcnn.optim import SGD
from xpcnn.training import Trainer, predict

MEAN, STD = (0.5, 0.4, 0.1), (0.2, 0.3, 0.25)


def a_model(device, rng, dtype=np.float32):
    layers = Conv2d(3, 4, 3, rng=rng), BatchNorm2d(4), Dropout(0.5), Flatten(), Linear(24, 5, rng=rng)
    return Sequential(*layers).to(device, dtype)


def some_pixels(rng, N=23):
    return rng.integers(0, 256, (N, 3, 5, 4), np.uint8)


def expected(model, images, dtype=np.float32):
    """By hand: what the loader makes of the images, in one batch."""
    model = model.eval()
    dataset = Dataset(images, np.zeros(len(images), int), mean=MEAN, std=STD)
    ((batch, _),) = Loader(dataset, len(images), dtype=dtype)
    probabilities, _ = softmax_forward(model(model.device.asarray(batch)), dim=1)
    return to_host(probabilities)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pixels_become_what_the_loader_makes_of_them(device, rng, dtype):
    model, images = a_model(device, rng, dtype), some_pixels(rng)
    found = predict(model, images, mean=MEAN, std=STD)
    assert type(found) is np.ndarray
    assert (found.shape, found.dtype) == ((23, 5), dtype)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(found, expected(model, images, dtype))


def test_images_may_be_floats_normalised_already_or_on_the_device(device, rng):
    model, images = a_model(device, rng), some_pixels(rng)
    found = predict(model, images, mean=MEAN, std=STD)
    for scaled in (images / np.float32(255), images / 255):
        np.testing.assert_allclose(predict(model, scaled, mean=MEAN, std=STD), found, rtol=1e-4)
    normalised = (images / 255 - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))
    np.testing.assert_allclose(predict(model, normalised), found, rtol=1e-4)
    np.testing.assert_array_equal(predict(model, device.asarray(images), mean=MEAN, std=STD), found)


def test_memory_is_bounded_by_the_batch_size(rng):
    class Sizes(Module):
        def __init__(self):
            super().__init__()
            self.seen = []

        def forward(self, x):
            self.seen.append(len(x))
            return x.reshape(len(x), -1)

    model = Sizes()
    found = predict(model, some_pixels(rng), batch_size=10)
    assert (model.seen, found.shape) == ([10, 10, 3], (23, 60))
    np.testing.assert_array_equal(found, predict(Sizes(), some_pixels(np.random.default_rng(0)), batch_size=23))


def test_the_model_is_left_in_the_mode_it_was_in(rng):
    model, images = a_model("cpu", rng), some_pixels(rng)
    before = {name: array.copy() for name, array in model.state_dict().items()}
    model.train()
    model[1].eval()  # as of a layer that is not trained further
    evaluated = predict(model, images)
    assert [module.training for module in model] == [True, False, True, True, True]
    np.testing.assert_array_equal(predict(model.eval(), images), evaluated)
    assert not model.training
    with pytest.raises(ValueError, match="expected input"):
        predict(model.train(), images[:, :2])
    assert model.training
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize(
    ("images", "options", "fault"),
    [
        (np.zeros((3, 5, 4), np.uint8), {}, r"expected images \(N, C, H, W\), .*, got \(3, 5, 4\) uint8"),
        (np.zeros((0, 3, 5, 4), np.uint8), {}, r"at least one, .*, got \(0, 3, 5, 4\)"),
        (np.zeros((2, 3, 5, 4), np.int64), {}, "uint8 or float, got .* int64"),
        (np.zeros((2, 3, 5, 4), np.uint8), {"mean": (1.0,)}, "expected 3 values of mean"),
        (np.zeros((2, 3, 5, 4), np.uint8), {"batch_size": 0}, "batch_size of 1 or more, got 0"),
    ],
)
def test_what_cannot_be_predicted_is_refused(rng, images, options, fault):
    with pytest.raises(ValueError, match=fault):
        predict(a_model("cpu", rng), images, **options)


def test_a_trainer_predicts_from_pixels_as_they_are_in_the_training_set(device, rng):
    images, labels = rng.integers(0, 256, (40, 6, 6), np.uint8), np.array(["a", "b"] * 20)
    train, test = Dataset(images, labels).split(0.75)
    model = Sequential(Conv2d(1, 4, 3, rng=rng), Flatten(), Linear(64, 2, rng=rng)).to(device)
    trainer = Trainer(model, SGD(model.parameters(), 0.01))
    with pytest.raises(ValueError, match="fit was given no Loader"):
        trainer.predict(images)
    with pytest.raises(ValueError, match=r"differ from the training images in mean .*like=train"):
        trainer.fit(Loader(train, 8), 1, Loader(Dataset(images, labels), 8))
    trainer.fit(Loader(train, 8), 1, Loader(test, 8))
    found = trainer.predict(images[:20])
    np.testing.assert_array_equal(found, predict(model, images[:20, None], mean=train.mean, std=train.std))
    np.testing.assert_array_equal(found, trainer.predict(images[:20, None], batch_size=20))
    assert trainer.predict(images[:0]).shape == (0, 2)
    for wrong in (images / 255, images[:, :5], images[:, None].repeat(3, 1)):
        with pytest.raises(
            ValueError, match=r"expected images \(N, C, H, W\) = \(N, 1, 6, 6\) of uint8, as in training"
        ):
            trainer.predict(wrong)
    with pytest.raises(ValueError, match="give a spec, or mean and std, not both"):
        predict(model, images, train.spec, mean=train.mean)
    again = Trainer(model, SGD(model.parameters(), 0.01))
    again.resume(trainer.checkpoint())
    assert again.spec == train.spec
    np.testing.assert_array_equal(again.predict(images[:20]), found)
