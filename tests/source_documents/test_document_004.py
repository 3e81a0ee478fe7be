"""The NumPy network that reads MNIST after 2000 batches of 4 images, and its pictures."""

import numpy as np
import pytest
from helpers import assert_close, load_script

from xpcnn.data import Loader, load_dataset
from xpcnn.models import numpy_cnn
from xpcnn.nn import MaxPool2d, Parameter
from xpcnn.training import evaluate

pytest.importorskip("matplotlib", reason="pictures need the viz extra")

from xpcnn import viz


@pytest.fixture(scope="module")
def trained():
    """The script's network after its training on the embedded images, with its losses."""
    numpy_cnn_mnist = load_script("numpy_cnn_mnist")
    model, mean, losses = numpy_cnn_mnist.train(load_dataset("mnist-mini"), "cpu")
    last = numpy_cnn().eval()
    last.load_state_dict(model.state_dict())
    model.load_state_dict(mean)
    return numpy_cnn_mnist, model, losses, last


def test_numpy_cnn(trained):
    numpy_cnn_mnist, model, losses, last = trained
    assert (numpy_cnn_mnist.BATCH_SIZE, numpy_cnn_mnist.ITERATIONS, len(losses)) == (4, 2000, 2000)
    test = Loader(load_dataset("mnist-mini", "test"), 500)
    result = evaluate(model, test)
    assert result.samples == 10_000
    assert result.accuracy >= 0.9282
    assert evaluate(last, test).accuracy >= 0.9  # up and down by a percent from one batch to the next


def test_numpy_cnn_layers(device, rng):
    model = numpy_cnn().to(device).eval()
    x = device.asarray(rng.normal(size=(4, 1, 28, 28)), np.float32)
    sizes = []
    for module in model:
        x = module(x)
        sizes.append(x.shape[1:])
    # 28 - 5 + 1 pixels are 24, where the document's table says 23; pooling makes 11 of either.
    assert sizes == [(3, 24, 24), (3, 24, 24), (3, 11, 11), (363,), (84,), (84,), (10,)]
    assert isinstance(model["pool1"], MaxPool2d)


def test_numpy_cnn_optimizer(device, rng):
    """`v = momentum·v + lr/(1 + decay·t)·g`, `w -= v`, with t from 0."""
    w, velocity = rng.normal(size=(3, 4)), 0
    parameter = Parameter(device.asarray(w.copy()))
    optimizer = load_script("numpy_cnn_mnist").KerasSGD([parameter], lr=0.01, momentum=0.9, decay=0.5)
    for t in range(4):
        gradient = rng.normal(size=w.shape)
        parameter.grad = device.asarray(gradient)
        optimizer.step()
        velocity = 0.9 * velocity + 0.01 / (1 + 0.5 * t) * gradient
        w = w - velocity
        assert_close(parameter.data, w, 1e-12, 1e-13, device=device)


def test_loss_picture(trained):
    _, _, losses, _ = trained
    batches, means = viz.loss_curve(losses).axes[0].lines
    np.testing.assert_array_equal(batches.get_ydata(), losses)
    assert means.get_ydata()[-1] < 0.3 * means.get_ydata()[0]
    assert means.get_ydata()[-1] == pytest.approx(np.mean(losses[-50:]))


def test_prediction_picture(trained):
    numpy_cnn_mnist, model, *_ = trained
    sample = load_dataset("mnist-mini", "test").subset(slice(32))
    figure = numpy_cnn_mnist.prediction_picture(model, sample)
    images, _ = next(iter(Loader(sample, 32)))
    guesses = model.eval()(images).argmax(axis=1)
    assert len(figure.axes) == 32
    for axes, image, label, guess in zip(figure.axes, sample.images, sample.labels, guesses, strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), image[0])
        title = axes.get_title()
        assert title.startswith(f"{guess} ")
        assert title.endswith(f"(is {label})") == (guess != label)
    assert np.mean(guesses == sample.labels) > 0.8
