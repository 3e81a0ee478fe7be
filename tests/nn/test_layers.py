"""What the layers add to the functions: parameters, checked options, and masks that can be drawn again."""

import numpy as np
import pytest
from helpers import assert_close
from inputs import refused

from xpcnn import functional as F
from xpcnn import manual_seed
from xpcnn.nn import Conv2d, CrossEntropyLoss, Dropout, Flatten, Linear, MaxPool2d, init


def layers(rng):
    return [Conv2d(4, 6, (3, 2), groups=2, rng=rng), Linear(7, 5, rng=rng)]


def test_a_seed_gives_the_weights():
    drawn = [[layer.weight.data for layer in layers(np.random.default_rng(seed))] for seed in (1, 1, 2)]
    for one, same, other in zip(*drawn, strict=True):
        assert np.array_equal(one, same)
        assert not np.array_equal(one, other)
        assert one.dtype == np.float32
    manual_seed(5)
    first = [layer.weight.data for layer in layers(None)]
    second = [layer.weight.data for layer in layers(None)]
    manual_seed(5)
    again = [layer.weight.data for layer in layers(None)]
    for one, other, same in zip(first, second, again, strict=True):
        assert np.array_equal(one, same)
        assert not np.array_equal(one, other)


def test_parameters_as_asked_for(rng):
    for make in (
        lambda **options: Conv2d(4, 6, (3, 2), groups=2, **options),
        lambda **options: Linear(7, 6, **options),
    ):
        layer = make(dtype=np.float64, weight_init=init.normal(0), rng=rng)
        assert not layer.weight.data.any()
        assert np.array_equal(layer.bias.data, np.zeros(6))
        assert layer.weight.data.dtype == layer.bias.data.dtype == np.float64
        assert make(bias=False).bias is None
    assert Conv2d(4, 6, (3, 2), groups=2).weight.data.shape == (6, 2, 3, 2)
    assert Linear(7, 6).weight.data.shape == (6, 7)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Conv2d(4, 6, 3, groups=4), ["groups=4", "4 and 6"]),
        (lambda: Conv2d(4, 6, 3, groups=3), ["groups=3", "4 and 6"]),
        (lambda: Conv2d(4, 6, 3, groups=0), ["groups=0"]),
        (lambda: Conv2d(0, 6, 3), ["0 and 6"]),
        (lambda: Conv2d(4, 6, (3, 0)), ["kernel_size", "(3, 0)"]),
        (lambda: Conv2d(4, 6, 3, stride=0), ["stride", "0"]),
        (lambda: Conv2d(4, 6, 3, padding="full"), ["padding", "'full'"]),
        (lambda: Conv2d(4, 6, 3, stride=2, padding="same"), ['"same"', "stride 1"]),
        (lambda: MaxPool2d(0), ["kernel_size", "0"]),
        (lambda: MaxPool2d(2, stride=0), ["stride", "0"]),
        (lambda: Linear(0, 5), ["0 and 5"]),
        (lambda: Linear(5, -1), ["5 and -1"]),
        (lambda: Dropout(1.0), ["p", "below 1", "1.0"]),
    ],
)
def test_bad_options_are_refused_when_the_layer_is_made(make, words):
    with refused(*words):
        make()


def test_options_reach_the_function(device, rng):
    x = device.asarray(rng.normal(size=(2, 4, 9, 8)))
    options = {"stride": (1, 2), "padding": (2, 0, 1, 1), "dilation": (2, 1)}
    conv = Conv2d(4, 6, (2, 3), **options, groups=2, rng=rng, dtype=np.float64).to(device)
    expected, _ = F.conv2d_forward(x, conv.weight.data, conv.bias.data, **options, groups=2)
    assert_close(conv(x), device.to_host(expected), 0, 0, device=device)
    options["padding"] = (1, 0, 1, 1)
    expected, _ = F.max_pool2d_forward(x, (2, 3), **options)
    assert_close(MaxPool2d((2, 3), **options)(x), device.to_host(expected), 0, 0, device=device)
    expected, _ = F.max_pool2d_forward(x, 3, stride=3)
    assert_close(MaxPool2d(3)(x), device.to_host(expected), 0, 0, device=device)


def test_flatten_keeps_pytorchs_order_and_moves_no_memory(device, rng):
    layer, x = Flatten(), rng.normal(size=(3, 2, 4, 5))
    assert_close(layer(device.asarray(x)), x.reshape(3, -1), 0, 0, device=device)
    assert_close(layer.backward(device.asarray(x.reshape(3, -1))), x, 0, 0, device=device)
    ours, _ = F.relu_forward(device.asarray(x))
    assert device.xp.may_share_memory(Flatten()(ours), ours)


def test_dropout_masks_differ_and_can_be_drawn_again(device, rng):
    def masks(layer, count):
        return [device.to_host(layer(device.asarray(np.ones((4, 50), np.float32)))) for _ in range(count)]

    one, other = Dropout(0.5, rng=np.random.default_rng(1)), Dropout(0.5, rng=np.random.default_rng(2))
    first, second, third = masks(one, 3)
    assert not np.array_equal(first, second)
    assert not np.array_equal(second, third)
    assert not np.array_equal(first, masks(other, 1)[0])
    resumed = Dropout(0.5, rng=np.random.default_rng(1))
    resumed.calls = 2
    assert np.array_equal(masks(resumed, 1)[0], third)
    dx = resumed.backward(device.asarray(np.ones((4, 50), np.float32)))
    assert_close(dx, third, 0, 0, device=device)

    x = device.asarray(rng.normal(size=(4, 50)))
    assert resumed.eval()(x) is x
    assert resumed.calls == 3


def test_a_loss_has_one_gradient_a_call(device):
    loss = CrossEntropyLoss()
    with refused("CrossEntropyLoss", error=RuntimeError):
        loss.backward()
    value = loss(device.asarray(np.zeros((2, 4))), device.asarray(np.array([1, 3])))
    assert_close(value, np.log(4), 1e-12, device=device)
    expected = np.full((2, 4), 1 / 8)
    expected[[0, 1], [1, 3]] -= 1 / 2
    assert_close(loss.backward(), expected, 1e-12, device=device)
    with refused("CrossEntropyLoss", error=RuntimeError):
        loss.backward()
