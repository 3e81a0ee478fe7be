"""Layers and losses of a user's own: the ones of the docstring of `xpcnn.nn`, and modules kept in lists."""

import re
import textwrap

import numpy as np
import pytest
from helpers import assert_close
from inputs import refused

import xpcnn
from xpcnn import nn
from xpcnn.backend import array_namespace
from xpcnn.optim import SGD
from xpcnn.testing import check_gradients


def shown(name):
    """Return a class that the docstring of `xpcnn.nn` shows."""
    text = re.search(rf"^    class {name}.*?(?=^\S|\Z)", nn.__doc__, re.MULTILINE | re.DOTALL).group()
    names = {"nn": nn, "np": np, "array_namespace": array_namespace}
    exec(textwrap.dedent(text), names)
    return names[name]


def test_the_layer_of_the_docstring(device, rng):
    layer = shown("Scale")(3).to(dtype=np.float64)
    layer.weight.data[...] = rng.normal(size=(3, 1, 1))
    check_gradients(layer, device.asarray(rng.normal(size=(4, 3, 2, 5))))
    assert layer.arithmetic == "elementwise"


def test_the_loss_of_the_docstring(device, rng):
    loss = shown("AbsoluteLoss")()
    output, target = rng.normal(size=(2, 5, 3))
    assert_close(loss(*map(device.asarray, (output, target))), abs(output - target).mean(), 1e-12, device=device)
    assert_close(loss.backward(), np.sign(output - target) / 15, 1e-12, device=device)
    with refused("AbsoluteLoss.backward needs a call of the loss", error=RuntimeError):
        loss.backward()


class Branches(nn.Module):
    """Its layers are in a list, a tuple and a dictionary; its parameters in a list."""

    def __init__(self, rng):
        super().__init__()
        first, second, third = (nn.Linear(4, 4, rng=rng, dtype=np.float64) for _ in range(3))
        self.layers = [first, nn.ReLU()]
        self.pair = (second, None)
        self.named = {"last": [third]}
        self.scales = [nn.Parameter(np.ones(())), 2.0]

    def forward(self, x):
        for layer in (*self.layers, self.pair[0], self.named["last"][0]):
            x = layer(x)
        self.save_for_backward(x)
        return x * self.scales[0].data

    def backward(self, dy, *, input_gradient=True):
        self.scales[0].add_gradient((dy * self.saved()).sum())
        dy = dy * self.scales[0].data
        for layer in (self.named["last"][0], self.pair[0], *reversed(self.layers)):
            dy = layer.backward(dy)
        return dy


def test_modules_in_lists_tuples_and_dictionaries_are_found(device, rng):
    model = Branches(rng)
    names = ["scales.0"]
    names += [f"{layer}.{part}" for layer in ("layers.0", "pair.0", "named.last.0") for part in ("weight", "bias")]
    assert [name for name, _ in model.named_parameters()] == names
    assert [name for name, _ in model.named_children()] == ["layers.0", "layers.1", "pair.0", "named.last.0"]
    check_gradients(model, rng.normal(size=(5, 4)), device=device)
    model.to(device).eval()
    assert model.device is device
    assert not model.layers[0].training
    assert model.layers[1]._cache is None
    assert model.scales[0].data.shape == ()
    assert set(model.own_parameters()) == {"scales.0"}


def test_a_parameter_without_axes_keeps_its_shape(device, rng):
    model = Branches(rng).to(device)
    optimizer = SGD(model.named_parameters(), 0.1, momentum=0.9)
    for _ in range(2):
        optimizer.zero_grad()
        model(device.asarray(rng.normal(size=(5, 4))))
        model.backward(device.asarray(rng.normal(size=(5, 4))))
        optimizer.step()
        assert model.scales[0].data.shape == ()
    assert nn.module.host_parameter(np.float64(3), np.float32).data.shape == ()


def test_a_set_of_modules_is_refused():
    model = nn.Module()
    model.layers = {nn.ReLU(), nn.ReLU()}
    with refused("layers is a set", "list, tuple or dict", error=TypeError):
        list(model.parameters())
    model.layers = {1, 2}
    assert not list(model.parameters())


@pytest.mark.parametrize(
    ("layer", "options"),
    [
        (nn.Conv2d(4, 6, 3, 2, 1, 2, 2), {"stride": 2, "padding": 1, "dilation": 2, "groups": 2}),
        (nn.ConvTranspose2d(4, 6, 3, 2, 1, 1), {"stride": 2, "padding": 1, "output_padding": 1, "groups": 1}),
        (nn.MaxPool2d(2), {"kernel_size": 2, "stride": 2, "padding": 0, "dilation": 1, "ceil_mode": False}),
        (nn.AvgPool2d(3, 1), {"kernel_size": 3, "stride": 1, "count_include_pad": True}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_options_are_attributes(layer, options):
    assert {name: getattr(layer, name) for name in options} == options
    if hasattr(layer, "weight"):
        assert layer.kernel_size == (3, 3)


def test_the_front_door():
    from xpcnn import Dataset, Device, Loader, Trainer, device, models, nn, optim

    assert isinstance(device("cpu"), Device)
    assert xpcnn.data.Dataset is Dataset
    assert xpcnn.data.Loader is Loader
    assert xpcnn.training.Trainer is Trainer
    assert models.lenet5
    assert nn.Conv2d
    assert optim.SGD
