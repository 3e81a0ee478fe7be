"""Pooling on planes against the same layers offset by offset, in pieces, and on a device that refuses NumPy's own."""

import numpy as np
import pytest
import reference
import reference_layers
from helpers import assert_close
from strict_xp import DEVICE, StrictDevice

from xpcnn import functional as F
from xpcnn.backend import CPU, batch_first
from xpcnn.backend.cpu import CpuDevice
from xpcnn.nn import MaxPool2d

# The shape of the input, the window and the options.
CASES = {
    "one image": ((1, 3, 6, 8), (2, 2), {"stride": (2, 2)}),
    "few images, odd sizes": ((4, 5, 9, 7), (2, 2), {"stride": (2, 2)}),
    "two images, stride beyond the window": ((2, 3, 11, 10), (2, 1), {"stride": (3, 4)}),
    "padding": ((3, 7, 8, 9), (3, 3), {"stride": (2, 2), "padding": (1, 1)}),
    "stride 1": ((5, 4, 6, 5), (3, 5), {"stride": (1, 1), "padding": (1, 2)}),
    "no padding, stride 1": ((2, 4, 6, 5), (3, 2), {"stride": (1, 1)}),
    "stride 3": ((2, 4, 10, 11), (4, 5), {"stride": (3, 3), "padding": (2, 1)}),
}


@pytest.fixture(params=["cpu", "strict"])
def planes_device(request, monkeypatch):
    """A device that pools all on planes, a few channels at a time, so that the last piece is smaller."""
    device, kind = {"cpu": (CPU, CpuDevice), "strict": (DEVICE, StrictDevice)}[request.param]
    monkeypatch.setattr(kind, "pools_on_planes", lambda self, images, pixels, *, overlapping: True)
    monkeypatch.setattr(kind, "tile_bytes", 4 << 10)
    return device


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", CASES)
def test_equals_the_loops(case, dtype, planes_device, rng):
    shape, kernel, options = CASES[case]
    x = rng.integers(-4, -1, shape).astype(dtype)  # ties, and zeros of the padding would win
    expected, winners = reference.max_pool2d(x, kernel, **options)
    y, cache = F.max_pool2d_forward(planes_device.asarray(x), kernel, **options)
    assert_close(y, expected.astype(dtype), 0, 0, device=planes_device)
    dy = rng.integers(-9, 10, expected.shape).astype(dtype)
    dx = F.max_pool2d_backward(planes_device.asarray(dy), cache)
    assert_close(dx, reference.max_pool2d_backward(dy, x, winners).astype(dtype), 0, 0, device=planes_device)
    y, cache = F.max_pool2d_forward(planes_device.asarray(x), kernel, **options, save_for_backward=False)
    assert_close(y, expected.astype(dtype), 0, 0, device=planes_device)
    assert cache is None

    windows = list(reference_layers.avg_pool2d_windows(*shape[2:], kernel, **options))
    y, cache = F.avg_pool2d_forward(planes_device.asarray(x), kernel, **options)
    assert_close(y, reference_layers.average(x, windows).astype(dtype), 1e-6, 1e-6, device=planes_device)
    dx = F.avg_pool2d_backward(planes_device.asarray(dy), cache)
    expected = reference_layers.average_backward(dy, x, windows).astype(dtype)
    assert_close(dx, expected, 1e-6, 1e-6, device=planes_device)


@pytest.mark.parametrize("case", ["few images, odd sizes", "padding"])
def test_nan_and_infinities_are_as_offset_by_offset(case, planes_device, rng, monkeypatch):
    shape, kernel, options = CASES[case]
    x = rng.integers(-4, -1, shape).astype(np.float32)
    x[rng.random(shape) < 0.05] = np.nan
    x[rng.random(shape) < 0.5] = -np.inf
    x[:, 1] = -np.inf
    x = planes_device.asarray(x)
    y, cache = F.max_pool2d_forward(x, kernel, **options)
    only_y, _ = F.max_pool2d_forward(x, kernel, **options, save_for_backward=False)
    dx = F.max_pool2d_backward(planes_device.asarray(np.ones(y.shape, np.float32)), cache)
    monkeypatch.setattr(type(planes_device), "pools_on_planes", lambda *args, **options: False)
    expected, cache = F.max_pool2d_forward(x, kernel, **options)
    assert_close(y, planes_device.to_host(expected), 0, 0, device=planes_device)
    assert_close(only_y, planes_device.to_host(expected), 0, 0, device=planes_device)
    expected = F.max_pool2d_backward(planes_device.asarray(np.ones(y.shape, np.float32)), cache)
    assert_close(dx, planes_device.to_host(expected), 0, 0, device=planes_device)


@pytest.mark.parametrize(("kernel", "options"), [(2, {}), (3, {"stride": 2, "padding": 1})])
def test_evaluation_finds_no_indices(kernel, options, device, rng, monkeypatch):
    """Only the maxima, also where the device does not pool on planes."""
    x = batch_first(device.asarray(rng.normal(size=(2, 7, 6, 3)).astype(np.float32)))
    layer = MaxPool2d(kernel, **options)
    expected = device.to_host(layer(x))
    empty, made = type(device).empty, []
    monkeypatch.setattr(type(device), "empty", lambda self, *args: made.append(args[0]) or empty(self, *args))
    assert_close(layer.eval()(x), expected, 0, 0, device=device)
    assert made == [(2, *expected.shape[2:], 3)]


def test_the_cpu_pools_on_planes_where_that_is_faster():
    assert CPU.pools_on_planes(256, 1 << 12, overlapping=True)
    assert not CPU.pools_on_planes(1, 1 << 10, overlapping=True)
    assert CPU.pools_on_planes(4, 1 << 20, overlapping=False)
    assert not CPU.pools_on_planes(4, 1 << 10, overlapping=False)
    assert not CPU.pools_on_planes(64, 1 << 20, overlapping=False)
