"""Networks in training are rewritten: the same bits, forward and backward, with fewer passes over memory."""

import numpy as np
import pytest

from xpcnn.backend import to_host
from xpcnn.nn import (
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    Flatten,
    Linear,
    MaxPool2d,
    Module,
    ReLU,
    ReLU6,
    Residual,
    Sequential,
)
from xpcnn.nn.rewrite import Clipped, ClippedBoth, rewritten


class Plain(Module):
    """A module that no rule knows, around one."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x)

    def backward(self, dy, *, input_gradient=True):
        return self.module.backward(dy, input_gradient=input_gradient)


def layers(rng, activation):
    """Batch norm before and behind everything that a rule looks at, and layers with weights."""
    norms = [BatchNorm2d(4) for _ in range(4)]
    for norm in norms:
        norm.weight.data = 4 * rng.standard_normal(4, np.float32)  # so that values beyond 6 are common
        norm.bias.data = rng.standard_normal(4, np.float32)
    block = [Conv2d(4, 4, 3, padding=1, rng=rng), norms[1], activation(), Conv2d(4, 4, 3, padding=1, rng=rng), norms[2]]
    return [norms[0], activation(), block, norms[3], activation(), MaxPool2d(2)]


def weighted(rng, activation):
    """Layers with weights, and pooling by whose windows pixels are covered once, several times, and not at all."""
    sizes = (2, None, 0), (3, 2, 1), (2, 3, 0), (3, 1, 1)
    pools = [MaxPool2d(size, stride, padding) for size, stride, padding in sizes]
    convolutions = [Conv2d(4, 4, 3, padding=1, groups=groups, rng=rng) for groups in (1, 1, 4, 2)]
    linear = [Flatten(), Linear(36, 20, rng=rng), activation(), Linear(20, 7, False, rng=rng), activation()]
    parts = [[conv, pool, activation()] for conv, pool in zip(convolutions, pools, strict=True)]
    parts.insert(1, [Conv2d(4, 4, 3, padding=1, rng=rng), activation()])
    return [*(layer for part in parts for layer in part), *linear]


def network(rng, activation, wrap):
    first, act, block, last, last_act, pool = layers(rng, activation)
    residual = Residual(Sequential(*map(wrap, block)), activation=wrap(activation()))
    return Sequential(wrap(first), wrap(act), residual, wrap(last), wrap(last_act), pool)


@pytest.mark.parametrize("activation", [ReLU, ReLU6])
def test_the_bits_of_the_modules_one_by_one(device, rng, activation):
    x, dy = rng.standard_normal((5, 4, 6, 6), np.float32), rng.standard_normal((5, 4, 3, 3), np.float32)
    results = []
    for wrap in (Plain, lambda module: module):
        model = network(np.random.default_rng(0), activation, wrap).to(device)
        y, dx = model(device.asarray(x)), model.backward(device.asarray(dy))
        gradients = [to_host(parameter.grad) for parameter in model.parameters()]
        averages = [to_host(array) for name, array in model.state_dict().items() if "running" in name]
        results.append([to_host(y), to_host(dx), *gradients, *averages])
    for plain, joined in zip(*results, strict=True):
        np.testing.assert_array_equal(plain, joined)
    assert activation is ReLU or (results[1][0] == 6).any()  # some are clipped


@pytest.mark.parametrize("activation", [ReLU, ReLU6])
def test_the_bits_of_layers_with_weights_and_of_pooling(device, rng, activation):
    x = 9 * rng.standard_normal((20, 4, 34, 34), np.float32)  # ReLU6 clips many
    dy, seed, results = rng.standard_normal((20, 7), np.float32), int(rng.integers(1 << 31)), []
    for wrap in (Plain, lambda module: module):
        model = Sequential(*map(wrap, weighted(np.random.default_rng(seed), activation))).to(device)
        y, dx = model(device.asarray(x)), model.backward(device.asarray(dy))
        results.append([to_host(array) for array in (y, dx, *(parameter.grad for parameter in model.parameters()))])
    for plain, joined in zip(*results, strict=True):
        np.testing.assert_array_equal(plain, joined)
        assert plain.any()


def test_a_relu_is_computed_with_the_layer_before_it():
    class OwnNorm(BatchNorm2d):
        pass

    def joined(*modules):
        return [type(module) for _, module in rewritten([(str(i), module) for i, module in enumerate(modules)])]

    assert joined(BatchNorm2d(3), ReLU(), ReLU()) == [ClippedBoth, ReLU]
    assert joined(Linear(2, 2), BatchNorm1d(2), ReLU6()) == [Linear, ClippedBoth]
    assert joined(ReLU(), BatchNorm2d(3)) == [ReLU, BatchNorm2d]
    assert joined(Conv2d(1, 2, 3), ReLU6(), Linear(2, 2), ReLU()) == [Clipped, Clipped]
    assert joined(Conv2d(1, 2, 3), ReLU(), MaxPool2d(2)) == [Conv2d, ClippedBoth]
    assert joined(OwnNorm(3), ReLU()) == [OwnNorm, ReLU]
    # One whose statistics are fixed, and observed ones.
    assert joined(BatchNorm2d(3).eval(), ReLU()) == [BatchNorm2d, ReLU]
    for layer in (BatchNorm2d, lambda size: Linear(size, size)):
        for i in (0, 1):
            modules = layer(3), ReLU()
            modules[i].forward = lambda x: x
            assert joined(*modules) == [*map(type, modules)]


def test_errors_and_misuse_name_the_batch_norm(rng):
    model = Sequential(norm=BatchNorm2d(3), act=ReLU())
    with pytest.raises(ValueError, match=r"norm \(BatchNorm2d\): expected input \(N, C, H, W\) with C=3"):
        model(np.zeros((2, 4, 5, 5), np.float32))
    y = model(rng.standard_normal((2, 3, 5, 5)).astype(np.float32))
    with pytest.raises(ValueError, match="read-only"):  # the backward pass reads it
        y += 1
    model.backward(np.ones_like(y))
    with pytest.raises(RuntimeError, match=r"norm \(BatchNorm2d\): BatchNorm2d.backward needs a forward pass"):
        model.backward(np.ones_like(y))
