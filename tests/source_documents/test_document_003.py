"""Convolution as a product of matrices, the decay of weights, and a deep net of sigmoids."""

from itertools import pairwise

import numpy as np
import pytest
from helpers import assert_close

from xpcnn.models import deep_sigmoid_net
from xpcnn.nn import Conv2d, CrossEntropyLoss, L2Penalty, Linear, MSELoss, Sigmoid
from xpcnn.optim import SGD
from xpcnn.training import Trainer


def test_batch_shapes(device, rng):
    layer = Conv2d(32, 16, 3, padding=1, rng=rng, dtype=np.float64)
    x, dy = rng.normal(size=(10, 32, 14, 14)), rng.normal(size=(10, 16, 14, 14))
    weight = layer.weight.data.copy()
    y = layer.to(device)(device.asarray(x))
    assert y.shape == (10, 16, 14, 14)
    corner = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))[:, :, :3, :3]  # what the first position sees
    assert_close(y[:, 0, 0, 0], (corner * weight[0]).sum(axis=(1, 2, 3)), 1e-12, 1e-13, device=device)
    dx = layer.backward(device.asarray(dy))
    assert dx.shape == x.shape
    assert layer.weight.grad.shape == (16, 32, 3, 3)
    assert_close(layer.bias.grad, dy.sum(axis=(0, 2, 3)), 1e-12, 1e-13, device=device)
    # Images of a batch share the weights and nothing else.
    gradients = []
    for n in range(10):
        layer.zero_grad()
        assert_close(layer(device.asarray(x[n : n + 1])), device.to_host(y)[n : n + 1], 1e-12, 1e-13, device=device)
        alone = layer.backward(device.asarray(dy[n : n + 1]))
        assert_close(alone, device.to_host(dx)[n : n + 1], 1e-12, 1e-13, device=device)
        gradients.append(device.to_host(layer.weight.grad))
    layer.zero_grad()
    layer(device.asarray(x))
    layer.backward(device.asarray(dy))
    assert_close(layer.weight.grad, sum(gradients), 1e-12, 1e-12, device=device)


@pytest.mark.parametrize("by", ["penalty", "optimizer"])
def test_weight_decay_update(device, rng, by):
    """`w -= lr·(dw + reg·w)`; biases are left alone by the penalty, and decay alike by the optimizer's option."""
    lr, reg = 0.1, 0.03
    model = Linear(4, 3, rng=rng, dtype=np.float64)
    weight, bias = model.weight.data.copy(), np.array([1.0, -2, 3])
    model.bias.data[...] = bias
    model.to(device)
    loss = L2Penalty(MSELoss(), model, reg) if by == "penalty" else MSELoss()
    optimizer = SGD(model.named_parameters(), lr, weight_decay=reg if by == "optimizer" else 0)
    for _ in range(2):
        x, target = rng.normal(size=(5, 4)), rng.normal(size=(5, 3))
        loss(model(device.asarray(x)), device.asarray(target))
        optimizer.zero_grad()
        model.backward(loss.backward())
        optimizer.step()
        difference = 2 * (x @ weight.T + bias - target) / target.size
        bias = bias - lr * (difference.sum(axis=0) + (reg * bias if by == "optimizer" else 0))
        weight = weight - lr * (difference.T @ x + reg * weight)
    assert_close(model.weight.data, weight, 1e-12, 1e-13, device=device)
    assert_close(model.bias.data, bias, 1e-12, 1e-13, device=device)


@pytest.mark.parametrize(("trained", "lr"), [(("conv1", "conv2"), 0.1), (("conv1", "conv2", "fc1", "fc2"), 0.01)])
@pytest.mark.parametrize("device", ["cpu", "cuda"], indirect=True)  # the make-believe device takes minutes
@pytest.mark.real_gpu("it trains for minutes on an emulated one")
def test_deep_sigmoid_net(device, rng, trained, lr):
    """100 random images of 28×28 pixels: the cost falls at each of 10 steps.

    The document's rate is 0.1, and the parameters it updates are those of the convolutions. With all of them 0.1 is too
    much: 500 hidden units near 1/2 make the last layer alone overshoot.
    """
    model = deep_sigmoid_net()
    assert [model[name].weight.data.shape[0] for name in ("conv1", "conv2", "fc1", "fc2")] == [20, 50, 500, 10]
    assert model["conv1"].weight.data.shape[2:] == model["conv2"].weight.data.shape[2:] == (5, 5)
    assert sum(isinstance(module, Sigmoid) for module in model) == 3
    parameters = [(name, array) for name, array in model.to(device).named_parameters() if name.split(".")[0] in trained]
    trainer = Trainer(model, SGD(parameters, lr), CrossEntropyLoss())
    images, labels = rng.random((100, 1, 28, 28)).astype(np.float32), rng.integers(0, 10, 100)
    for _ in range(10):
        trainer.train_step(images, labels)
    trainer.metrics.read()
    costs = trainer.metrics.losses
    assert all(after < before for before, after in pairwise(costs)), costs
    assert costs[-1] < costs[0] - 0.05
