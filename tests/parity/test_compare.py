"""Devices compared layer by layer: right ones agree in any order of summation, a wrong layer is named."""

import numpy as np
import pytest
from other_order import other_order, replaced
from strict_xp import DEVICE

from xpcnn import nn
from xpcnn.backend import CPU, device_of
from xpcnn.models import MODELS, lenet5
from xpcnn.parity import compare_devices
from xpcnn.parity.observe import ObservedLoss, observe


def digits(rng, N=4, shape=(1, 28, 28)):
    return rng.normal(size=(N, *shape)).astype(np.float32), rng.integers(0, 10, N)


@pytest.mark.parametrize("device", ["cpu", "strict", "cuda"], indirect=True)
@pytest.mark.parametrize("name", ["lenet5", "three_layer_net", "resnet20"])
def test_every_layer_of_the_networks_agrees(name, device, rng):
    if name not in MODELS:
        pytest.skip(f"no {name}")
    with other_order():
        comparisons = compare_devices(
            MODELS[name](), digits(rng, 2, (3, 32, 32) if name != "lenet5" else (1, 28, 28)), [CPU, device]
        )
    assert all(c.agrees for c in comparisons), [c for c in comparisons if not c.agrees]
    assert {c.direction for c in comparisons} == {"forward", "backward"}
    if device is DEVICE:
        assert max(c.severity for c in comparisons) > 0.01  # the two did compute in different orders


def test_mixed_precision_agrees_within_its_own_tolerances(rng):
    with other_order(), nn.autocast("mixed", DEVICE):
        comparisons = compare_devices(lenet5(), digits(rng), [CPU, DEVICE])
    assert all(c.agrees for c in comparisons), [c for c in comparisons if not c.agrees]
    (whole,) = (c for c in comparisons if c.kind == "whole network")
    assert 1e-2 < whole.tolerance < 2e-2  # five products


def test_a_wrong_kernel_is_named(rng):
    def drops_the_last_term(x1, x2):
        return np.matmul(x1, x2) if x1.shape[1] != 25 else np.matmul(x1[:, :-1], x2[:-1])

    with replaced(matmul=drops_the_last_term):
        comparisons = compare_devices(lenet5(), digits(rng), ["cpu", DEVICE])
    wrong = {(c.layer, c.direction) for c in comparisons if not c.agrees}
    assert wrong == {("conv1", "forward"), ("loss", "forward")}  # and so what comes out in the end
    first = next(c for c in comparisons if not c.agrees)
    assert (first.kind, first.array, len(first.index)) == ("Conv2d", "y", 4)


class WrongOnTheDevice(nn.MSELoss):
    """A loss whose value, or whose gradient, is off on the make-believe device."""

    def __init__(self, value, gradient):
        super().__init__()
        self.value, self.gradient = value, gradient

    def forward(self, output, target):
        self.wrong = device_of(output) is DEVICE
        value = super().forward(output, target)
        return value * value.dtype.type(self.value) if self.wrong else value

    def backward(self):
        gradient = super().backward()
        return gradient * gradient.dtype.type(self.gradient) if self.wrong else gradient


@pytest.mark.parametrize(("value", "gradient"), [(1, 1), (1.0001, 1), (1, 1.0001)])
def test_a_wrong_loss_is_named(value, gradient, rng):
    images, _ = digits(rng)
    targets = rng.normal(size=(len(images), 10)).astype(np.float32)
    comparisons = compare_devices(lenet5(), (images, targets), ["cpu", DEVICE], WrongOnTheDevice(value, gradient))
    wrong = [(c.layer, c.kind, c.direction, c.array) for c in comparisons if not c.agrees]
    expected = [("forward", "y")] * (value != 1) + [("backward", "dx")] * (gradient != 1)
    assert wrong == [("loss", "WrongOnTheDevice", *where) for where in expected]


def test_the_loss_is_observed_with_its_target_and_gradient(rng):
    logits, labels = rng.normal(size=(4, 10)), rng.integers(0, 10, 4)
    plain, observed = nn.CrossEntropyLoss(), ObservedLoss(nn.CrossEntropyLoss())
    value, gradient = plain(logits, labels), plain.backward()
    assert observed(logits, labels) == value
    np.testing.assert_array_equal(observed.backward(), gradient)
    call = observed.call
    assert call.kind == "CrossEntropyLoss"
    for found, expected in ((call.output, logits), (call.target, labels), (call.value, value)):
        np.testing.assert_array_equal(found, expected)
    assert [(name, array.shape) for name, array in call.outputs()] == [("y", ()), ("dx", (4, 10))]


def test_observing_leaves_no_trace_and_changes_no_bit(rng):
    images, _ = digits(rng)
    model, plain = lenet5(), lenet5()
    with observe(model) as calls:
        y = model(images)
        model.backward(y, input_gradient=False)
    expected = plain(images)
    plain.backward(expected, input_gradient=False)
    np.testing.assert_array_equal(y, expected)
    for (name, ours), (_, theirs) in zip(model.named_parameters(), plain.named_parameters(), strict=True):
        np.testing.assert_array_equal(ours.grad, theirs.grad, err_msg=name)
    names = [call.name for call in calls]
    assert sorted(names) == sorted(name for name, _ in model.named_children())
    assert names[:4] == ["conv1", "pool1", "relu1", "conv2"]  # as they are computed
    assert calls[0].dx is None
    assert calls[0].gradients["weight"].shape == (6, 1, 5, 5)
    assert calls[1].dx is not None
    assert all("forward" not in vars(module) for _, module in model.named_modules())


def test_too_few_devices_are_refused(rng):
    with pytest.raises(ValueError, match="at least two devices"):
        compare_devices(lenet5(), digits(rng), ["cpu"])


def test_a_user_s_own_layer_is_compared_too(rng):
    class Square(nn.Module):
        def forward(self, x):
            self.save_for_backward(x)
            return x * x

        def backward(self, dy, *, input_gradient=True):
            return 2 * self.saved() * dy

    class Leaky(Square):
        def forward(self, x):
            return x * np.asarray(x.shape[0], x.dtype)

    model = nn.Sequential(nn.Flatten(), Square(), nn.Linear(784, 10, rng=rng))
    assert all(c.agrees for c in compare_devices(model, digits(rng), ["cpu", DEVICE]))
    model = nn.Sequential(nn.Flatten(), Leaky(), nn.Linear(784, 10, rng=rng))
    with pytest.raises(TypeError):
        compare_devices(model, digits(rng), ["cpu", DEVICE])
