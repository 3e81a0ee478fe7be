"""The same bits for any number of threads, from one layer to a whole training run."""

import numpy as np
import pytest

from xpcnn import functional as F
from xpcnn.backend import CPU, batch_first
from xpcnn.models import lenet5
from xpcnn.nn import CrossEntropyLoss
from xpcnn.optim import Adam


@pytest.fixture
def with_threads():
    """Return a function that calls another with 1, 2 and 4 threads and returns the three results."""
    before = CPU.threads

    def call(function):
        results = []
        for count in (1, 2, 4):
            CPU.threads = count
            results.append(function())
        return results

    yield call
    CPU.threads = before


def bits(*arrays):
    return [array.tobytes() for array in arrays]


def normal(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


def layers(rng):
    """Return a few layers, each large enough for several tasks, as functions of nothing."""

    def convolution(x, dy, weight, bias, **options):
        y, cache = F.conv2d_forward(x, weight, bias, **options)
        return bits(y, *F.conv2d_backward(dy, cache))

    def pooling(x, dy):
        y, cache = F.max_pool2d_forward(x, 3, stride=2, padding=1)
        return bits(y, F.max_pool2d_backward(dy, cache))

    def linear(x, dy, weight, bias):
        y, cache = F.linear_forward(x, weight, bias)
        return bits(y, *F.linear_backward(dy, cache))

    def relu(x, dy):
        y, cache = F.relu_forward(x)
        return bits(y, F.relu_backward(dy, cache))

    x, dy = (batch_first(normal(rng, 12, 29, 31, 100)) for _ in range(2))
    halved = batch_first(normal(rng, 12, 15, 16, 100))
    weight, depthwise, bias = normal(rng, 12, 12, 3, 3), normal(rng, 12, 1, 5, 3), normal(rng, 12)
    wide = normal(rng, 530, 401), normal(rng, 530, 85), normal(rng, 85, 401), normal(rng, 85)
    return {
        "conv2d": lambda: convolution(x, dy, weight, bias, padding=1),
        "conv2d, stride 2": lambda: convolution(x, halved, weight, bias, padding=1, stride=2),
        "conv2d, depthwise": lambda: convolution(x, dy, depthwise, bias, padding=(2, 1), groups=12),
        "max_pool2d": lambda: pooling(x, halved),
        "linear": lambda: linear(*wide),
        "relu": lambda: relu(x, dy),
    }


def test_of_every_layer(with_threads, rng, monkeypatch):
    tasks = []
    map_tasks = type(CPU).map
    monkeypatch.setattr(type(CPU), "map", lambda self, f, items: tasks.append(len(items)) or map_tasks(self, f, items))
    for name, layer in layers(rng).items():
        one, two, four = with_threads(lambda layer=layer: (tasks.clear(), layer(), tuple(tasks)))
        assert max(tasks) >= 4, f"{name} is too small to be shared"
        assert one[1] == two[1] == four[1], name
        # Not by luck: the work is cut alike for any number of threads, but for elementwise work, which adds nothing up.
        assert name == "relu" or one[2] == two[2] == four[2], name


@pytest.mark.parametrize("batch", [1, 64])
def test_of_a_training_run(batch, with_threads, rng):
    images = rng.random((3, batch, 1, 28, 28)).astype(np.float32)
    labels = rng.integers(0, 10, (3, batch))

    def train():
        model, loss = lenet5(seed=1), CrossEntropyLoss()
        optimizer = Adam(model.named_parameters(), 0.01)
        losses = []
        for x, t in zip(images, labels, strict=True):
            optimizer.zero_grad()
            losses.append(loss(model(x), t))
            model.backward(loss.backward(), input_gradient=False)
            optimizer.step()
        return bits(*losses, *model.state_dict().values())

    one, two, four = with_threads(train)
    assert one == two == four
