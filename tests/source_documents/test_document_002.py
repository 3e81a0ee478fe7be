"""Convolution and pooling in several ways, each checked against the others, and weights that are saved."""

import sys

import numpy as np
import pytest
import reference
from helpers import assert_close, load_script

from xpcnn import functional as F
from xpcnn.nn import Conv2d, CrossEntropyLoss, Flatten, Linear, Sequential, init
from xpcnn.optim import SGD, Adam, RMSprop
from xpcnn.training import Checkpoint, Trainer


@pytest.mark.parametrize(
    ("channels", "filters", "size", "kernel", "stride", "padding", "output"),
    [
        (1, 2, (4, 4), 3, 1, 0, (2, 2)),
        (3, 1, (3, 3), 2, 1, 0, (2, 2)),
        (3, 2, (3, 3), 2, 1, 0, (2, 2)),
        (1, 1, (5, 5), 3, 2, 0, (2, 2)),
        (1, 1, (4, 4), 3, 1, 1, (4, 4)),
        (3, 2, (9, 6), 4, 2, 1, (4, 3)),
    ],
    ids=["one-to-many", "many-to-one", "many-to-many", "stride", "padding", "all"],
)
def test_conv_kinds(device, rng, channels, filters, size, kernel, stride, padding, output):
    assert output == tuple((length - kernel + 2 * padding) // stride + 1 for length in size)
    x, weight = rng.normal(size=(2, channels, *size)), rng.normal(size=(filters, channels, kernel, kernel))
    bias = rng.normal(size=filters)
    y, _ = F.conv2d_forward(*map(device.asarray, (x, weight, bias)), stride=stride, padding=padding)
    assert y.shape == (2, filters, *output)
    # Each filter is a sum over the channels of what its kernels make of them, and its bias.
    for o in range(filters):
        maps = [
            reference.conv2d(x[:, c : c + 1], weight[o : o + 1, c : c + 1], stride=(stride, stride), padding=padding)
            for c in range(channels)
        ]
        assert_close(y[:, o : o + 1], sum(maps) + bias[o], 1e-12, 1e-13, device=device)


@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (1, 1), (2, 1)])
def test_three_methods(device, rng, stride, padding):
    methods = load_script("three_methods")
    arrays = [rng.normal(size=shape) for shape in [(2, 3, 7, 6), (4, 3, 3, 2), (4,)]]
    by_loops = methods.by_loops(*arrays, stride, padding)
    by_im2col = methods.by_im2col(*map(device.asarray, arrays), stride, padding)
    assert_close(by_im2col, by_loops, 1e-12, 1e-13, device=device)
    expected = reference.conv2d(*arrays, stride=(stride, stride), padding=padding)
    assert_close(by_loops, expected, 1e-12, 1e-13)


def test_three_methods_compiled(rng):
    pytest.importorskip("numba", reason="compiles the loops; the script says so where it is missing")
    methods = load_script("three_methods")
    arrays = [rng.normal(size=shape) for shape in [(2, 3, 7, 6), (4, 3, 3, 2), (4,)]]
    compiled = methods.by_compiled_loops()
    assert_close(compiled(*arrays, 2, 1), methods.by_loops(*arrays, 2, 1), 1e-12, 1e-13)


def test_three_methods_table(monkeypatch, capsys):
    methods = load_script("three_methods")
    monkeypatch.setattr(sys, "argv", ["three_methods", "--channels", "2", "--batch-size", "1"])
    monkeypatch.setattr(methods, "by_compiled_loops", lambda: None)
    methods.main()
    _, _, loops, compiled, im2col = capsys.readouterr().out.splitlines()
    assert loops.startswith("plain loops")
    assert "pip install numba" in compiled
    *_, faster, difference = im2col.split()
    assert float(faster) > 0
    assert 0 <= float(difference) < 1e-12


@pytest.mark.parametrize(("stride", "size"), [(2, 7), (3, 9), (2, 8)])
def test_strided_gradient(device, rng, stride, size):
    """It is the gradient for stride 1 of an error map with zeros between its elements."""
    x, weight = rng.normal(size=(2, 3, size, size)), rng.normal(size=(4, 3, 3, 3))
    x_device, weight_device = device.asarray(x), device.asarray(weight)
    y, cache = F.conv2d_forward(x_device, weight_device, stride=stride)
    dy = rng.normal(size=y.shape)
    dx, dweight, _ = F.conv2d_backward(device.asarray(dy), cache)

    y, cache = F.conv2d_forward(x_device, weight_device)
    spaced = np.zeros(y.shape)
    spaced[:, :, : stride * dy.shape[2] : stride, : stride * dy.shape[3] : stride] = dy
    same_dx, same_dweight, _ = F.conv2d_backward(device.asarray(spaced), cache)
    assert_close(dx, device.to_host(same_dx), 1e-12, 1e-13, device=device)
    assert_close(dweight, device.to_host(same_dweight), 1e-12, 1e-13, device=device)

    dx_loops, dweight_loops, _ = reference.conv2d_backward(dy, x, weight, stride=(stride, stride))
    assert_close(dx, dx_loops, 1e-12, 1e-13, device=device)
    assert_close(dweight, dweight_loops, 1e-12, 1e-13, device=device)


POOLING = {
    "max": (F.max_pool2d_forward, F.max_pool2d_backward, np.max),
    "mean": (F.avg_pool2d_forward, F.avg_pool2d_backward, np.mean),
}


@pytest.mark.parametrize("kind", POOLING)
def test_pooling_two_ways(device, rng, kind):
    """By loops, and from windows lowered to columns: the package's result is that of both."""
    forward, backward, reduce = POOLING[kind]
    x = rng.normal(size=(2, 3, 6, 8))
    y, cache = forward(device.asarray(x), 2, stride=2)
    columns = x.reshape(2, 3, 3, 2, 4, 2).transpose(0, 1, 2, 4, 3, 5).reshape(-1, 4)
    assert_close(y, reduce(columns, axis=1).reshape(2, 3, 3, 4), 1e-14, 1e-15, device=device)
    dy = rng.normal(size=y.shape)
    by_loops, spread = np.zeros(y.shape), np.zeros(x.shape)
    for n, c, h, w in np.ndindex(*y.shape):
        window = x[n, c, 2 * h : 2 * h + 2, 2 * w : 2 * w + 2]
        by_loops[n, c, h, w] = reduce(window)
        share = window == window.max() if kind == "max" else np.full((2, 2), 0.25)
        spread[n, c, 2 * h : 2 * h + 2, 2 * w : 2 * w + 2] = dy[n, c, h, w] * share
    assert_close(y, by_loops, 1e-14, 1e-15, device=device)
    assert_close(backward(device.asarray(dy), cache), spread, 1e-14, 1e-15, device=device)


def test_pooling_two_ways_worked_example(device):
    """Errors [[1, 2], [3, 4]] go to where the maxima were, or a quarter of each to all four."""
    x = device.asarray([[[[0, 5, 1, 1], [2, 3, 1, 9], [7, 0, 0, 0], [0, 0, 8, 0]]]], np.float64)
    dy = device.asarray([[[[1, 2], [3, 4]]]], np.float64)
    y, cache = F.max_pool2d_forward(x, 2)
    assert_close(y, [[[[5.0, 9], [7, 8]]]], 0, 0, device=device)
    expected = [[[[0.0, 1, 0, 0], [0, 0, 0, 2], [3, 0, 0, 0], [0, 0, 4, 0]]]]
    assert_close(F.max_pool2d_backward(dy, cache), expected, 0, 0, device=device)
    y, cache = F.avg_pool2d_forward(x, 2)
    assert_close(y, [[[[2.5, 3], [1.75, 2]]]], 0, 0, device=device)
    quarters = np.kron([[0.25, 0.5], [0.75, 1.0]], np.ones((2, 2)))
    assert_close(F.avg_pool2d_backward(dy, cache), [[quarters]], 0, 0, device=device)


@pytest.mark.parametrize("initializer", [init.he_normal, init.glorot_uniform, init.normal(0.01)])
@pytest.mark.parametrize("optimizer", [SGD, Adam, RMSprop])
def test_weights_object(device, rng, tmp_path, initializer, optimizer):
    """Weights are drawn as asked, learn by any optimizer, and go on from a file as if they had never stopped."""

    def build(seed):
        drawn = {"weight_init": initializer, "rng": np.random.default_rng(seed)}
        model = Sequential(conv=Conv2d(1, 2, 3, **drawn), flatten=Flatten(), fc=Linear(32, 3, **drawn)).to(device)
        return Trainer(model, optimizer(model.named_parameters(), 0.01), CrossEntropyLoss())

    trainer, other = build(1), build(2)
    assert_close(
        trainer.model["conv"].weight.data,
        initializer((2, 1, 3, 3), np.random.default_rng(1)).astype(np.float32),
        0,
        0,
        device=device,
    )
    batches = [(rng.normal(size=(4, 1, 6, 6)).astype(np.float32), rng.integers(0, 3, 4)) for _ in range(4)]
    for batch in batches[:2]:
        trainer.train_step(*batch)
    trainer.checkpoint().save(tmp_path / "weights")
    other.resume(Checkpoint.load(tmp_path / "weights"))
    for batch in batches[2:]:
        trainer.train_step(*batch)
        other.train_step(*batch)
    for name, parameter in trainer.model.named_parameters():
        same = dict(other.model.named_parameters())[name]
        assert_close(same.data, device.to_host(parameter.data), 0, 0, device=device)
