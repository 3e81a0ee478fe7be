"""Layers that come together, and shortcuts around layers, against numeric gradients and PyTorch."""

import numpy as np
import pytest
import reference
from helpers import assert_close
from inputs import MEMORY, choose, in_memory, noted, refused
from pytorch import single_threaded_torch

from xpcnn import functional as F
from xpcnn.nn import (
    BatchNorm2d,
    Conv2d,
    Dropout,
    Flatten,
    Identity,
    Linear,
    ReLU,
    Residual,
    ResidualSequential,
    Sequential,
    Sigmoid,
    Tanh,
    conv_relu,
    conv_relu_pool,
)


def host_gradients(module, device):
    return {name: device.to_host(parameter.grad).copy() for name, parameter in module.named_parameters()}


def check_gradients(module, x, device, rng):
    """Compare the gradients of input and parameters with numeric ones."""
    module.to(device)

    def output(x):
        return device.to_host(module(device.asarray(x)))

    dy = rng.normal(size=output(x).shape)
    module.zero_grad()
    module(device.asarray(x))
    dx = module.backward(device.asarray(dy))
    assert_close(dx, reference.numeric_gradient(output, x, dy, 1e-5), 1e-6, 1e-8, device=device)
    for parameter in module.parameters():
        kept = parameter.data

        def with_parameter(values, parameter=parameter):
            parameter.data = device.asarray(values)
            return output(x)

        numeric = reference.numeric_gradient(with_parameter, device.to_host(kept), dy, 1e-5)
        parameter.data = kept
        assert_close(parameter.grad, numeric, 1e-6, 1e-8, device=device)


@pytest.mark.parametrize(
    "make",
    [
        lambda options: conv_relu(2, 3, 3, padding=1, **options),
        lambda options: conv_relu(2, 4, (2, 3), stride=(1, 2), groups=2, bias=False, activation=Sigmoid(), **options),
        lambda options: conv_relu_pool(2, 3, 3, padding="same", **options),
        lambda options: conv_relu_pool(2, 3, 3, pool_size=(3, 2), pool_stride=1, activation=Tanh(), **options),
    ],
)
def test_sandwiches_have_the_right_gradients(make, device, rng):
    check_gradients(make({"rng": rng, "dtype": np.float64}), rng.normal(size=(2, 2, 5, 6)), device, rng)


def test_sandwiches_are_their_layers(device, rng):
    block = conv_relu_pool(2, 4, 3, stride=2, padding=1, pool_size=3, pool_stride=2, rng=rng, dtype=np.float64)
    block.to(device)
    assert list(block.state_dict()) == ["conv.weight", "conv.bias"]
    x = device.asarray(rng.normal(size=(3, 2, 11, 12)))
    y, _ = F.conv2d_forward(x, block["conv"].weight.data, block["conv"].bias.data, stride=2, padding=1)
    y, _ = F.relu_forward(y)
    y, _ = F.max_pool2d_forward(y, 3, stride=2)
    assert_close(block(x), device.to_host(y), 0, 0, device=device)
    assert [type(module).__name__ for module in conv_relu(2, 4, 3)] == ["Conv2d", "ReLU"]


RESIDUALS = {
    "identity": lambda conv: Residual(conv(3, 3)),
    "identity and activation": lambda conv: Residual(Sequential(conv(3, 3), Tanh(), conv(3, 3)), activation=Sigmoid()),
    "projection": lambda conv: Residual(conv(3, 4), conv(3, 4), Tanh()),
    "main without parameters": lambda conv: Residual(Tanh(), conv(3, 3)),
    "nested": lambda conv: Residual(Residual(conv(3, 3), activation=Tanh()), activation=Sigmoid()),
    "between layers": lambda conv: Sequential(conv(3, 2), Residual(conv(2, 2), activation=Tanh()), Flatten()),
    "sequential": lambda conv: ResidualSequential(conv1=conv(3, 4), act=Tanh(), conv2=conv(4, 3)),
    "sequential, projection": lambda conv: ResidualSequential(
        conv1=conv(3, 4), downsample=conv(3, 4), activation=Tanh()
    ),
    "twice the input": lambda conv: Residual(Identity(), activation=Tanh()),
}


@pytest.mark.parametrize("name", RESIDUALS)
def test_shortcuts_have_the_right_gradients(name, device, rng):
    module = RESIDUALS[name](lambda i, o: Conv2d(i, o, 3, padding=1, rng=rng, dtype=np.float64))
    check_gradients(module, rng.normal(size=(2, 3, 3, 2)), device, rng)


@pytest.mark.parametrize("name", RESIDUALS)
def test_skipping_the_input_gradient_leaves_the_others(name, device, rng):
    module = RESIDUALS[name](lambda i, o: Conv2d(i, o, 3, padding=1, rng=rng, dtype=np.float64)).to(device)
    network = Sequential(first=Sequential(Tanh(), Residual(ReLU())), rest=module)
    x = device.asarray(rng.normal(size=(2, 3, 3, 2)))
    dy = device.asarray(rng.normal(size=network(x).shape))
    assert network.backward(dy) is not None
    expected = host_gradients(network, device)
    network.zero_grad()
    network(x)
    assert network.backward(dy, input_gradient=False) is None
    for key, gradient in host_gradients(network, device).items():
        assert np.array_equal(gradient, expected[key])
    assert [key for key, inner in network.named_modules() if inner._cache is not None] == []


def test_a_shortcut_does_not_change_what_it_passes_on(device, rng):
    """The input and the gradient go two ways: neither may be overwritten on one of them."""
    module = Residual(Dropout(0.0), activation=None).to(device)
    values = rng.normal(size=(3, 2, 4, 5))
    x, dy = device.asarray(values.copy()), device.asarray(2 * values)
    for mode in (True, False):
        assert_close(module.train(mode)(x), 2 * values, 0, 0, device=device)
        assert_close(x, values, 0, 0, device=device)
    module.train()(x)
    assert_close(module.backward(dy), 4 * values, 0, 0, device=device)
    assert_close(dy, 2 * values, 0, 0, device=device)


def test_equals_pytorch(device, rng):
    torch = single_threaded_torch()

    class Theirs(torch.nn.Module):
        def __init__(self, channels, out, project):
            super().__init__()
            self.main = torch.nn.Sequential(
                torch.nn.Conv2d(channels, out, 3, padding=1, bias=False), torch.nn.BatchNorm2d(out), torch.nn.Tanh()
            )
            self.shortcut = torch.nn.Conv2d(channels, out, 1) if project else None

        def forward(self, x):
            return torch.sigmoid(self.main(x) + (x if self.shortcut is None else self.shortcut(x)))

    for i, draw_rng in enumerate(rng.spawn(25)):
        N, channels, size = choose(draw_rng, 1, 2, 33), choose(draw_rng, 1, 3), draw_rng.integers(2, 7, 2)
        project, memory = bool(draw_rng.random() < 0.5), choose(draw_rng, *MEMORY)
        with noted(draw=i, N=N, channels=channels, size=size, project=project, memory=memory):
            out = choose(draw_rng, 2, 5) if project else channels
            theirs = Theirs(channels, out, project)
            ours = Residual(
                Sequential(Conv2d(channels, out, 3, padding=1, bias=False), BatchNorm2d(out), Tanh()),
                Conv2d(channels, out, 1) if project else None,
                Sigmoid(),
            ).to(device)
            ours.load_state_dict({key: tensor.numpy() for key, tensor in theirs.state_dict().items()})
            assert list(ours.state_dict()) == list(theirs.state_dict())
            x = draw_rng.normal(size=(N, channels, *size)).astype(np.float32)
            tensor = torch.tensor(x, requires_grad=True)
            expected = theirs(tensor)
            dy = draw_rng.normal(size=tuple(expected.shape)).astype(np.float32)
            expected.backward(torch.tensor(dy))
            y = ours(in_memory(device, x, memory))
            assert_close(y, expected.detach().numpy(), 1e-5, 1e-5, device=device)
            dx = ours.backward(in_memory(device, dy, memory))
            assert_close(dx, tensor.grad.numpy(), 1e-4, 5e-5, device=device)
            gradients = {key: parameter.grad.numpy() for key, parameter in theirs.named_parameters()}
            for key, parameter in ours.named_parameters():
                atol = 2e-5 * max(1, np.abs(gradients[key]).max())
                assert_close(parameter.grad, gradients[key], 1e-4, atol, device=device)


def test_shapes_that_cannot_be_added_are_named(device):
    network = Sequential(block=Residual(Conv2d(3, 4, 3, padding=1))).to(device)
    with refused("block (Residual)", "(2, 4, 5, 5)", "(2, 3, 5, 5)"):
        network(device.asarray(np.ones((2, 3, 5, 5), np.float32)))


def test_residuals_show_and_move_their_parts(device):
    module = Residual(Linear(2, 2), Linear(2, 2, bias=False), ReLU())
    assert list(module.state_dict()) == ["main.weight", "main.bias", "shortcut.weight"]
    assert repr(module) == (
        "Residual(\n"
        "  (main): Linear(2, 2, bias=True)\n"
        "  (shortcut): Linear(2, 2, bias=False)\n"
        "  (activation): ReLU()\n"
        ")"
    )
    assert module.to(device)(device.asarray(np.ones((3, 2), np.float32))).shape == (3, 2)


def test_a_residual_sequential_names_its_layers_without_a_level_between():
    layers = {"conv1": Conv2d(3, 3, 1, bias=False), "relu": ReLU()}
    module = ResidualSequential(**layers, downsample=Sequential(Conv2d(3, 3, 1)), activation=ReLU())
    assert list(module.state_dict()) == ["conv1.weight", "downsample.0.weight", "downsample.0.bias"]
    assert list(module) == [*layers.values()]
    assert not any(inner.training for _, inner in module.eval().named_modules())
