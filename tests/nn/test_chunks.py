"""Large batches are evaluated in chunks of images: the same results, with the bits of any number of threads."""

import numpy as np
import pytest

from xpcnn.backend import CPU
from xpcnn.nn import BatchNorm2d, Conv2d, Flatten, Linear, MaxPool2d, Module, ReLU, Residual, Sequential, Softmax
from xpcnn.nn.chunks import image_chunks


class MinusMean(Module):
    """A module of the user's that mixes the images of a batch."""

    def forward(self, x):
        return x - x.mean(axis=0)


def a_network(rng, *more):
    return Sequential(
        Conv2d(2, 6, 3, padding=1, rng=rng),
        BatchNorm2d(6),
        ReLU(),
        Residual(Sequential(Conv2d(6, 6, 3, padding=1, rng=rng)), activation=ReLU()),
        MaxPool2d(2),
        Flatten(),
        Linear(6 * 4 * 4, 5, rng=rng),
        *more,
    ).eval()


@pytest.fixture
def images(rng):
    return rng.standard_normal((200, 2, 8, 8)).astype(np.float32)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(CPU, "chunk_bytes", 6 * 8 * 8 * 4 * 60)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_chunks_have_the_results_of_the_whole_batch(rng, images, threads, monkeypatch):
    model = a_network(rng)
    assert [chunk.stop - chunk.start for chunk in image_chunks(model, images, CPU)] == [66, 67, 67]
    few = np.concatenate([model(images[i : i + 100]) for i in (0, 100)])
    before, CPU.threads = CPU.threads, threads
    try:
        found = model(images)
    finally:
        CPU.threads = before
    np.testing.assert_allclose(found, few, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found, model(images))
    kept = found.copy()
    model(images + 1)
    np.testing.assert_array_equal(found, kept)


@pytest.mark.parametrize("module", [MinusMean(), Softmax(0), BatchNorm2d(5, track_running_stats=False)])
def test_modules_that_mix_images_get_the_whole_batch(rng, images, module):
    first = a_network(rng)
    model = Sequential(*list(first)[:4], Conv2d(6, 5, 3, rng=rng), module).eval()
    assert not image_chunks(model, images, CPU)
    one_by_one = Sequential(*list(model)[:-1]).eval()(images)
    np.testing.assert_allclose(model(images), module(one_by_one), rtol=1e-4, atol=1e-5)


def test_observed_and_training_networks_get_the_whole_batch(rng, images):
    model, shapes = a_network(rng), []
    forward = model[3].forward
    vars(model[3])["forward"] = lambda x: shapes.append(x.shape) or forward(x)
    model(images)
    assert shapes == [(200, 6, 8, 8)]
    del vars(model[3])["forward"]
    model[1].train()
    assert not image_chunks(model, images, CPU)


def test_errors_state_the_shape_of_the_batch(rng, images):
    with pytest.raises(ValueError, match=r"^0 \(Conv2d\): expected input .*got \(200, 1, 8, 8\)"):
        a_network(rng)(images[:, :1])
