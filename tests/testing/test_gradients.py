"""Gradient checks pass what is right, name what is wrong, and know a kink when they meet one."""

import numpy as np
import pytest

from xpcnn import functional as F
from xpcnn import nn
from xpcnn.testing import GradientError, check_gradients


def network(rng):
    return nn.Sequential(
        conv=nn.Conv2d(2, 3, 3, padding=1, rng=rng),
        relu=nn.ReLU(),
        pool=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
        drop=nn.Dropout(0.3, rng=rng),
        fc=nn.Linear(12, 4, rng=rng),
    )


def test_a_right_network_passes_on_every_device(device, rng):
    model = network(rng)
    before = {name: array.copy() for name, array in model.state_dict().items()}
    slope = check_gradients(model, rng.normal(size=(3, 2, 4, 4)), device=device)
    assert slope.analytic == pytest.approx(slope.numeric, rel=1e-5)
    assert model["drop"].calls == 0
    for name, array in model.state_dict().items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, before[name])


def test_a_right_pair_of_functions_passes(device, rng):
    x, weight, bias = rng.normal(size=(2, 2, 5, 5)), rng.normal(size=(3, 2, 3, 3)), rng.normal(size=3)
    arrays = tuple(device.asarray(array) for array in (x, weight, bias))
    check_gradients(F.conv2d_forward, arrays, F.conv2d_backward)
    check_gradients(F.conv2d_forward, (*arrays[:2], None), F.conv2d_backward)


def test_a_loss_passes_whose_labels_have_no_gradient(rng):
    logits, labels = rng.normal(size=(5, 4)), np.array([0, 3, 1, 1, 2])
    check_gradients(F.cross_entropy_forward, (logits, labels), lambda dy, cache: dy * F.cross_entropy_backward(cache))


def wrong_weight(dy, cache):
    dx, dweight, dbias = F.linear_backward(dy, cache)
    dweight = dweight.copy()
    dweight[1, 2] *= 1.001
    return dx, dweight, dbias


def test_one_wrong_element_is_found_and_its_argument_named(rng):
    arrays = rng.normal(size=(6, 5)), rng.normal(size=(4, 5)), rng.normal(size=4)
    check_gradients(F.linear_forward, arrays, F.linear_backward)
    with pytest.raises(GradientError, match=r"gradient of argument 1 \(4, 5\) is wrong: .* gives .*, differences "):
        check_gradients(F.linear_forward, arrays, wrong_weight)


class ForgetsBias(nn.Linear):
    def backward(self, dy, *, input_gradient=True):
        dx = super().backward(dy, input_gradient=input_gradient)
        self.bias.grad = self.bias.grad * 0
        return dx


class DoublesInput(nn.ReLU):
    def backward(self, dy, *, input_gradient=True):
        return 2 * super().backward(dy)


def test_a_module_s_wrong_parameter_or_input_is_named(rng):
    with pytest.raises(GradientError, match=r"gradient of bias \(4,\) is wrong"):
        check_gradients(ForgetsBias(5, 4, rng=rng), rng.normal(size=(6, 5)))
    with pytest.raises(GradientError, match=r"gradient of argument 0 \(6, 5\) is wrong"):
        check_gradients(DoublesInput(), rng.normal(size=(6, 5)))


def test_a_kink_at_the_very_point_is_reported_as_one(rng):
    x = rng.normal(size=(4, 5))
    x[1, 2] = 0  # ReLU has two slopes here
    with pytest.raises(GradientError, match="kink: in 8 directions the slopes to both sides differ"):
        check_gradients(nn.ReLU(), x)
    with pytest.raises(GradientError, match="kink"):
        check_gradients(nn.MaxPool2d(2), np.ones((1, 1, 4, 4)))  # nothing but ties


def test_a_kink_nearby_is_stepped_around(rng):
    x = rng.normal(size=(4, 5))
    x[1, 2] = 3e-5  # within the first step, not within the last
    slope = check_gradients(nn.ReLU(), x)
    assert slope.draws > 1
    x[1, 2] = 0.5
    assert check_gradients(nn.ReLU(), x).draws == 1


def test_what_cannot_be_checked_is_refused(rng):
    with pytest.raises(ValueError, match="together with its backward function"):
        check_gradients(F.relu_forward, rng.normal(size=(2, 2)))
    with pytest.raises(ValueError, match="no array of floats"):
        check_gradients(lambda x: (x * 1.0, None), np.arange(3), lambda dy, cache: None)
    with pytest.raises(GradientError, match=r"expected a gradient of shape \(3, 2\), got \(2, 3\)"):
        check_gradients(lambda x: (x.T, None), rng.normal(size=(3, 2)), lambda dy, cache: dy)
