"""A layer gets the tolerance of the arithmetic it declares, whatever its class and its parameters are called."""

import numpy as np
import pytest
from other_order import other_order
from strict_xp import DEVICE

from xpcnn import nn
from xpcnn.backend import CPU, array_namespace, device_of
from xpcnn.parity import compare_devices, tolerance

SAMPLES, FEATURES = 32, 400


class MyNormish(nn.Module):
    """Elementwise, with a parameter for each channel, though its name ends like a normalization's."""

    arithmetic = "elementwise"

    def __init__(self, shape):
        super().__init__()
        self.slope = nn.Parameter(np.full(shape, 0.7, np.float32))

    def forward(self, x):
        self.save_for_backward(x)
        return array_namespace(x).tanh(x) * self.slope.data

    def backward(self, dy, *, input_gradient=True):
        x = self.saved()
        y = array_namespace(x).tanh(x)
        axes = (0, *range(2, x.ndim)) if self.slope.data.size > 1 else tuple(range(x.ndim))
        self.slope.add_gradient((dy * y).sum(axis=axes).reshape(self.slope.data.shape))
        return dy * self.slope.data * (1 - y * y)


class Plain(nn.Module):
    """A product over the last axis, without a weight of that name."""

    arithmetic = "product"

    def __init__(self, rng, in_features, out_features):
        super().__init__()
        self.kernel = nn.Parameter(rng.normal(size=(in_features, out_features)).astype(np.float32) / 20)

    def forward(self, x):
        self.save_for_backward(x)
        y = array_namespace(x).matmul(x.reshape(-1, x.shape[-1]), self.kernel.data)
        return y.reshape(*x.shape[:-1], -1)

    def backward(self, dy, *, input_gradient=True):
        x = self.saved()
        rows, dy_rows = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
        self.kernel.add_gradient(rows.T @ dy_rows)
        return (dy_rows @ self.kernel.data.T).reshape(x.shape)


class MaxPoolSoftmaxReLU(MyNormish):
    """The same elementwise layer without a declaration."""

    arithmetic = nn.Module.arithmetic


def compared(model, rng, shape=(FEATURES,), loss=None):
    """Return how the layer named `layer` compares between the CPU and a device that sums in another order."""
    images = rng.normal(size=(SAMPLES, *shape)).astype(np.float32)
    with other_order():
        found = compare_devices(model, (images, rng.integers(0, 5, SAMPLES)), [CPU, DEVICE], loss)
    return {c.direction: c for c in found if c.layer == "layer"}


def network(layer, rng, features=FEATURES):
    return nn.Sequential(layer=layer, flatten=nn.Flatten(), head=nn.Linear(features, 5, rng=rng))


def wrong_by(factor, method):
    """Return a method whose results are off by a factor on the make-believe device."""

    def wrong(layer, x, **options):
        result = method(layer, x, **options)
        return result * x.dtype.type(factor) if device_of(x) is DEVICE else result

    return wrong


def test_an_elementwise_layer_gets_no_more_than_elementwise_rounding(rng, monkeypatch):
    found = compared(network(MyNormish((FEATURES,)), rng), rng)
    assert found["forward"].tolerance == tolerance("elementwise")
    assert all(c.agrees for c in found.values()), found
    # Off by so little that a normalization would have been allowed it.
    error = 1.5 * tolerance("elementwise")
    assert error < tolerance("normalization", FEATURES)
    monkeypatch.setattr(MyNormish, "forward", wrong_by(1 + error, MyNormish.forward))
    assert not compared(network(MyNormish((FEATURES,)), rng), rng)["forward"].agrees


@pytest.mark.parametrize("parameter", [(FEATURES,), (1,)], ids=str)
def test_its_parameters_gradients_are_sums_over_the_batch_and_all_positions(parameter, rng, monkeypatch):
    layer = MyNormish(parameter)
    found = compared(network(layer, rng), rng)["backward"]
    assert found.agrees
    assert found.tolerance in (tolerance("loss", 1), tolerance("loss", SAMPLES * FEATURES // parameter[0]))
    backward = MyNormish.backward

    def wrong(layer, dy, **options):
        dx = backward(layer, dy, **options)
        if device_of(dy) is DEVICE:
            layer.slope.grad *= np.float32(1.001)
        return dx

    monkeypatch.setattr(MyNormish, "backward", wrong)
    found = compared(network(MyNormish(parameter), rng), rng)["backward"]
    assert (found.array, found.agrees) == ("slope", False)


@pytest.mark.parametrize("shape", [(FEATURES,), (7, FEATURES)], ids=str)
def test_a_product_gets_the_tolerance_of_its_length(shape, rng, monkeypatch):
    outputs = 24
    features = outputs * int(np.prod(shape[:-1]))
    found = compared(network(Plain(rng, FEATURES, outputs), rng, features), rng, shape)
    assert found["forward"].tolerance == tolerance("product", FEATURES)
    assert all(c.agrees for c in found.values()), found
    assert found["forward"].relative > tolerance("exact")  # summed in another order
    monkeypatch.setattr(Plain, "forward", wrong_by(1 + 3 * tolerance("product", FEATURES), Plain.forward))
    assert not compared(network(Plain(rng, FEATURES, outputs), rng, features), rng, shape)["forward"].agrees


def test_a_layer_that_declares_nothing_may_sum_over_a_sample(rng):
    found = compared(network(MaxPoolSoftmaxReLU((FEATURES,)), rng), rng)
    assert found["forward"].tolerance == tolerance("loss", FEATURES)
    assert all(c.agrees for c in found.values()), found


@pytest.mark.parametrize(
    ("layer", "kind", "length"),
    [
        (nn.AvgPool2d(3, 1, 1), "loss", 2 * 6 * 6),  # of the shape of its input, but not elementwise
        (nn.Softmax(1), "loss", 2 * 6 * 6),
        (nn.MaxPool2d(3, 1, 1), "exact", 1),
        (nn.SiLU(), "elementwise", 1),
        (nn.BatchNorm2d(2), "normalization", SAMPLES * 6 * 6),
        (nn.LayerNorm2d(2), "normalization", SAMPLES * 6 * 6),
        (nn.Conv2d(2, 2, 3, padding=1), "product", 2 * 3 * 3),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_layers_of_the_package_declare_what_they_are(layer, kind, length, rng):
    found = compared(network(layer, rng, 2 * 6 * 6), rng, (2, 6, 6))
    assert found["forward"].tolerance == pytest.approx(tolerance(kind, length), rel=1e-3)
    assert all(c.agrees for c in found.values()), found


def test_products_of_inputs_and_outputs_without_axes_have_bounds_too(rng):
    class Score(nn.Module):
        """The scalar product of the two halves of a sample."""

        arithmetic = "product"

        def forward(self, x):
            half = x.shape[1] // 2
            self.save_for_backward(x)
            return (x[:, :half] * x[:, half:]).sum(axis=1)

        def backward(self, dy, *, input_gradient=True):
            x = self.saved()
            half = x.shape[1] // 2
            return array_namespace(x).concatenate([x[:, half:], x[:, :half]], axis=1) * dy[:, None]

    images = rng.normal(size=(SAMPLES, FEATURES)).astype(np.float32)
    targets = rng.normal(size=SAMPLES).astype(np.float32)
    model = nn.Sequential(first=nn.Linear(FEATURES, FEATURES, rng=rng), layer=Score())
    with other_order():
        found = compare_devices(model, (images, targets), [CPU, DEVICE], nn.MSELoss())
    assert all(c.agrees for c in found), found
    assert {c.tolerance for c in found if c.layer == "layer" and c.direction == "forward"} == {
        tolerance("product", FEATURES)
    }


def test_an_unknown_arithmetic_is_refused(rng):
    layer = MyNormish((FEATURES,))
    layer.arithmetic = "pointwise"
    with pytest.raises(ValueError, match=r"layer \(MyNormish\) declares the arithmetic 'pointwise': expected one of"):
        compared(network(layer, rng), rng)
