"""Activations against their formulas, numeric gradients and PyTorch, far from 0, and a user's own."""

import math

import numpy as np
import pytest
import reference
import reference_layers
from helpers import assert_close
from inputs import MEMORY, choose, in_memory, noted, refused
from pytorch import single_threaded_torch

from xpcnn import functional as F
from xpcnn.backend import CPU, array_namespace
from xpcnn.functional.normal import normal_cdf_and_bell
from xpcnn.nn import ELU, GELU, Activation, Identity, LeakyReLU, ReLU, ReLU6, Sigmoid, SiLU, Softmax, Tanh

LAYERS = {
    "ReLU6()": ReLU6(),
    "LeakyReLU(0.2)": LeakyReLU(0.2),
    "LeakyReLU(1.5)": LeakyReLU(1.5),
    "LeakyReLU(-0.5)": LeakyReLU(-0.5),
    "ELU()": ELU(),
    "ELU(1.7)": ELU(1.7),
    "GELU()": GELU(),
    "GELU('tanh')": GELU("tanh"),
    "SiLU()": SiLU(),
    "Sigmoid()": Sigmoid(),
    "Tanh()": Tanh(),
}
every = pytest.mark.parametrize("name", LAYERS)


@pytest.mark.parametrize("tile_bytes", [1, 1000, 1 << 20])
@every
def test_equals_its_formula(name, tile_bytes, device, rng, monkeypatch):
    monkeypatch.setattr(device, "tile_bytes", tile_bytes)
    layer, (function, derivative) = LAYERS[name], reference_layers.ACTIVATIONS[name]
    x, dy = 3 * rng.normal(size=(3, 2, 4, 2)), rng.normal(size=(3, 2, 4, 2))
    x[0, 0, 0] = 0, -0.0
    y = layer(device.asarray(x))
    assert_close(y, np.vectorize(function, "d")(x), 1e-10, 1e-14, device=device)
    dx = layer.backward(device.asarray(dy))
    assert_close(dx, dy * np.vectorize(derivative, "d")(x), 1e-10, 1e-14, device=device)
    x[0, 0, 0] = 1, -1  # away from the corner at 0
    layer(device.asarray(x))
    expected = reference.numeric_gradient(np.vectorize(function, "d"), x, dy, 1e-5)
    assert_close(layer.backward(device.asarray(dy)), expected, 1e-7, 1e-9, device=device)


@every
def test_equals_pytorch(name, device, rng):
    torch = single_threaded_torch()
    theirs = eval(name, vars(torch.nn))
    for i, draw_rng in enumerate(rng.spawn(25)):
        # From a single number to more than one thread's share.
        shape = choose(draw_rng, (1, 1), (33, 7), (5, 3, 1, 4), *[(64, 10, 15, 16)] * (device is CPU))
        memory, scale = choose(draw_rng, *MEMORY), choose(draw_rng, 0.1, 1, 10)
        with noted(draw=i, shape=shape, memory=memory, scale=scale):
            x, dy = ((scale * draw_rng.normal(size=shape)).astype(np.float32) for _ in range(2))
            tensor = torch.tensor(x, requires_grad=True)
            expected = theirs(tensor)
            expected.backward(torch.tensor(dy))
            layer, size = LAYERS[name], max(1, np.abs(x).max())
            # PyTorch takes 1 + erf(x) and 1 + tanh(x), which for x around -4 leaves few digits.
            atol = 3e-6 if name.startswith("GELU") else 3e-7
            assert_close(layer(in_memory(device, x, memory)), expected.detach().numpy(), 1e-6, atol, device=device)
            dx = layer.backward(in_memory(device, dy, choose(draw_rng, *MEMORY)))
            # The approximation of GELU cubes its input, in PyTorch's way with some loss.
            atol = (1e-5 if name == "GELU('tanh')" else 1e-6) * size
            assert_close(dx, tensor.grad.numpy(), 1e-6, atol, device=device)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@every
def test_far_from_zero_without_a_warning(name, dtype, device):
    """Values and slopes far out are those of the asymptotes, and nothing overflows on the way."""
    layer, (function, derivative) = LAYERS[name], reference_layers.ACTIVATIONS[name]
    near = [10.0, 50.0, 100.0]
    x = np.array([[sign * value for value in [*near, 1e4, 1e10, 1e30, 2e38] for sign in (1, -1)]], dtype)
    slope_below = {"LeakyReLU(0.2)": 0.2, "LeakyReLU(1.5)": 1.5, "LeakyReLU(-0.5)": -0.5}.get(name, 0.0)
    bounded = {"Sigmoid()": 1.0, "Tanh()": 1.0, "ReLU6()": 6.0}
    values, slopes = [], []
    for number in x[0].astype(float):
        if abs(number) <= 100:
            values.append(function(number))
            slopes.append(derivative(number))
        elif number > 0:
            values.append(bounded.get(name, number))
            slopes.append(0.0 if name in bounded else 1.0)
        else:
            values.append({"ELU()": -1.0, "ELU(1.7)": -1.7, "Tanh()": -1.0}.get(name, slope_below * number))
            slopes.append(slope_below)
    y = layer(device.asarray(x))
    rtol = 1e-6 if dtype == np.float32 else 1e-14
    assert_close(y, np.array([values], dtype), rtol, rtol, device=device)
    assert_close(layer.backward(device.asarray(np.ones_like(x))), np.array([slopes], dtype), rtol, rtol, device=device)


def test_the_normal_distribution_also_in_its_tails(device):
    for dtype, absolute, relative, least in ((np.float32, 2e-7, 1e-5, 1e-30), (np.float64, 1e-15, 1e-12, 1e-300)):
        x = np.linspace(-40, 12, 20_001).astype(dtype)
        expected = np.array([math.erfc(-value / math.sqrt(2)) / 2 for value in x.astype(float)])
        found, _ = normal_cdf_and_bell(device.asarray(x))
        assert_close(found, expected.astype(dtype), 0, absolute, device=device)
        inside = (expected > least) & (x < -1)
        np.testing.assert_allclose(device.to_host(found)[inside], expected[inside], relative)


def test_small_sigmoids_keep_their_digits(device):
    """1 + tanh(x / 2) has none left there."""
    x = np.array([[-30.0, -80.0]], np.float32)
    expected = np.exp(x.astype(float)).astype(np.float32)
    assert_close(Sigmoid()(device.asarray(x)), expected, 1e-5, 0, device=device)
    assert_close(SiLU()(device.asarray(x)), x * expected, 1e-5, 0, device=device)


def test_elu_near_zero_keeps_its_digits(device):
    """exp(x) - 1 has few left there."""
    x = -np.geomspace(1e-30, 1e-2, 50, dtype=np.float32)[None]
    assert_close(ELU()(device.asarray(x)), np.expm1(x.astype(float)).astype(np.float32), 3e-7, 0, device=device)


@every
def test_nan_comes_through(name, device):
    assert np.isnan(device.to_host(LAYERS[name](device.asarray(np.full((2, 1), np.nan, np.float32))))).all()


@pytest.mark.parametrize("forward", [lambda x, **o: F.elu_forward(x, 1.7, **o), F.silu_forward, F.gelu_forward])
def test_the_derivative_may_be_left_out(forward, device, rng):
    x = device.asarray(rng.normal(size=(3, 4)))
    y, cache = forward(x, derivative=False)
    assert cache is None
    assert_close(y, device.to_host(forward(x)[0]), 0, 0, device=device)


# -- Softmax and identity ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [0, 1, 2, -1, -3])
@pytest.mark.parametrize("tile_bytes", [200, 1 << 20])  # in pieces along the axes before or after, and in one
def test_softmax_equals_the_loops(dim, tile_bytes, device, rng, monkeypatch):
    monkeypatch.setattr(device, "tile_bytes", tile_bytes)
    monkeypatch.setattr(device, "long_row", 2)
    x, dy = rng.normal(size=(3, 4, 2)), rng.normal(size=(3, 4, 2))
    layer = Softmax(dim)
    assert_close(layer(device.asarray(x)), reference_layers.softmax(x, dim), 1e-10, 1e-14, device=device)
    expected = reference.numeric_gradient(lambda x: reference_layers.softmax(x, dim), x, dy, 1e-4)
    assert_close(layer.backward(device.asarray(dy)), expected, 1e-7, 1e-9, device=device)


def test_softmax_equals_pytorch(device, rng):
    torch = single_threaded_torch()
    for i, draw_rng in enumerate(rng.spawn(25)):
        shape = choose(draw_rng, (1, 1), (33, 7), (5, 3, 1, 4), (4, 30, 5))
        dim, memory = int(draw_rng.integers(-len(shape), len(shape))), choose(draw_rng, *MEMORY)
        with noted(draw=i, shape=shape, dim=dim, memory=memory):
            x, dy = (draw_rng.normal(0, 3, shape).astype(np.float32) for _ in range(2))
            tensor = torch.tensor(x, requires_grad=True)
            expected = tensor.softmax(dim)
            expected.backward(torch.tensor(dy))
            layer = Softmax(dim)
            assert_close(layer(in_memory(device, x, memory)), expected.detach().numpy(), 2e-6, 1e-7, device=device)
            dx = layer.backward(in_memory(device, dy, memory))
            assert_close(dx, tensor.grad.numpy(), 1e-5, 2e-6, device=device)


def test_softmax_of_huge_logits(device):
    y = Softmax(1)(device.asarray(np.array([[1e4, -1e4, 1e4, 0]], np.float32)))
    assert_close(y, np.array([[0.5, 0, 0.5, 0]], np.float32), 0, 0, device=device)


def test_identity(device, rng):
    x = device.asarray(rng.normal(size=(3, 4)))
    layer = Identity()
    assert layer(x) is x
    assert layer.backward(x) is x


# -- A user's own ------------------------------------------------------------------------------------------------------


class Softsign(Activation):
    def function(self, x):
        return x / (1 + abs(x))

    def derivative(self, x, y):
        return (1 - abs(y)) ** 2


class Softplus(Activation):
    """With functions of the array module, and a derivative by the input."""

    def function(self, x):
        xp = array_namespace(x)
        return xp.maximum(x, 0) + xp.log1p(xp.exp(-abs(x)))

    def derivative(self, x, y):
        return 1 / (1 + array_namespace(x).exp(-x))


def test_a_users_own(device, rng):
    torch = single_threaded_torch()
    for layer, theirs in ((Softsign(), torch.nn.Softsign()), (Softplus(), torch.nn.Softplus())):
        for dtype in (np.float32, np.float64):
            x, dy = (rng.normal(size=(5, 3, 4, 6)).astype(dtype) for _ in range(2))
            tensor = torch.tensor(x, requires_grad=True)
            expected = theirs(tensor)
            expected.backward(torch.tensor(dy))
            assert_close(layer(device.asarray(x)), expected.detach().numpy(), 1e-6, 1e-6, device=device)
            assert_close(layer.backward(device.asarray(dy)), tensor.grad.numpy(), 1e-6, 1e-6, device=device)


def test_options_are_shown_and_checked(device):
    texts = [repr(layer) for layer in (LeakyReLU(), ELU(), GELU(), GELU("tanh"), Softmax(1), ReLU())]
    assert texts == [
        "LeakyReLU(negative_slope=0.01)",
        "ELU(alpha=1.0)",
        "GELU(approximate='none')",
        "GELU(approximate='tanh')",
        "Softmax(dim=1)",
        "ReLU()",
    ]
    with refused('"none" or "tanh"', "'erf'"):
        GELU("erf")
    with refused("axis 2", "(3, 4)"):
        F.softmax_forward(device.asarray(np.ones((3, 4))), 2)
