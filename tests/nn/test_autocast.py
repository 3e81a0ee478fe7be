"""Mixed precision of layers: exactly the operands are rounded to float16, and the sums are those of float32."""

import copy

import numpy as np
import pytest

from xpcnn import nn
from xpcnn.nn.autocast import is_mixed
from xpcnn.nn.linear import PointwiseLinear
from xpcnn.testing import assert_close

IMAGES, FEATURES = (8, 9, 9), (30,)
LAYERS = {
    "im2col": (nn.Conv2d(8, 16, 3, 2, 1), IMAGES),
    "stride 1": (nn.Conv2d(8, 4, 3, padding=1), IMAGES),
    "1×1": (nn.Conv2d(8, 16, 1, 2), IMAGES),
    "depthwise": (nn.Conv2d(8, 8, 3, padding=1, groups=8), IMAGES),
    "depthwise 1×1": (nn.Conv2d(8, 16, 1, groups=8), IMAGES),
    "groups": (nn.Conv2d(8, 16, 3, padding=1, groups=2), IMAGES),
    "channels for Winograd": (nn.Conv2d(64, 64, 3, padding=1), (64, 12, 12)),
    "dilated": (nn.Conv2d(64, 64, 3, padding=2, dilation=2), (64, 12, 12)),
    "transposed": (nn.ConvTranspose2d(8, 4, 3, 2, 1, groups=2), IMAGES),
    "linear": (nn.Linear(30, 70), FEATURES),
    "pointwise linear": (PointwiseLinear(8, 6), IMAGES),
}


def half(x):
    """Return the float64 numbers that float16 has for `x`."""
    return x.astype(np.float16).astype(np.float64)


def batch(rng, shape):
    return np.moveaxis(rng.normal(size=(*shape, 20)).astype(np.float32), -1, 0)


@pytest.mark.parametrize("name", LAYERS)
def test_operands_are_rounded_to_float16_and_summed_in_float32(name, device, rng):
    layer, shape = LAYERS[name]
    x, ours, exact = batch(rng, shape), copy.deepcopy(layer).to(device), copy.deepcopy(layer).to(dtype=np.float64)
    exact.weight.data = half(layer.weight.data)
    with nn.autocast("mixed", device):
        y = ours(device.asarray(x))
    assert ours._cache.x.dtype == np.float16
    dy = batch(rng, y.shape[1:])
    dx = ours.backward(device.asarray(dy))  # outside the block: what was kept decides
    expected = {"y": exact(half(x)), "dx": exact.backward(half(dy)), "weight": exact.weight.grad, "bias": dy.sum(0)}
    if dy.ndim > 2:
        expected["bias"] = dy.sum(axis=(0, 2, 3), dtype=np.float64)
    found = {"y": y, "dx": dx, "weight": ours.weight.grad, "bias": ours.bias.grad}
    for kind, array in found.items():
        # A result that was rounded to float16 would be off by 5e-4.
        close = 4e-6 * abs(expected[kind]).max()
        assert_close(array, expected[kind].astype(np.float32), 0, close, device=device, dtype=np.float32)


def test_only_training_inside_the_block_is_mixed(device, rng):
    layer, x = nn.Linear(30, 7).to(device), device.asarray(batch(rng, FEATURES))
    usual = device.to_host(layer(x))
    with nn.autocast("mixed", device):
        assert is_mixed()
        with nn.autocast("float32", device):
            np.testing.assert_array_equal(device.to_host(layer(x)), usual)
        assert abs(device.to_host(layer(x)) - usual).max() > 1e-5
        np.testing.assert_array_equal(device.to_host(layer.eval()(x)), usual)
    np.testing.assert_array_equal(device.to_host(layer.train()(x)), usual)
    with pytest.raises(ZeroDivisionError), nn.autocast("mixed", device):
        raise ZeroDivisionError
    assert not is_mixed()


def test_other_dtypes_than_float32_are_not_rounded(rng):
    layer = nn.Linear(30, 7, dtype=np.float64)
    x = rng.normal(size=(4, 30))
    with nn.autocast("mixed", layer.device):
        assert_close(layer(x), x @ layer.weight.data.T + layer.bias.data, 1e-12, 1e-12)


def test_an_overflow_shows_in_the_result_and_not_as_a_warning(device, rng):
    layer = nn.Linear(30, 7).to(device)
    with nn.autocast("mixed", device):
        layer(device.asarray(batch(rng, FEATURES)))
    dx = layer.backward(device.asarray(np.full((20, 7), 1e5, np.float32)))
    assert not np.isfinite(device.to_host(dx)).any()


def test_an_unknown_precision_is_refused(device):
    with (
        pytest.raises(ValueError, match="unknown precision 'float16': expected float32, tf32, mixed"),
        nn.autocast("float16", device),
    ):
        pass
