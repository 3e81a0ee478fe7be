"""Convolution in groups of few channels against the direct sums, and by whole groups where they have many."""

import numpy as np
import pytest
from helpers import assert_close
from inputs import choose, draw_pair, draw_size, noted

from xpcnn.backend import CPU
from xpcnn.functional import conv2d_backward, conv2d_forward, grouped, im2col, winograd
from xpcnn.functional.windows import make_window


def draw(rng):
    """Return a window, the groups, and arrays x, weight, bias, dy and a bias of x, all in the batch-last layout."""
    kernel = choose(rng, (3, 3), (1, 1), draw_pair(rng, 1, 6))
    stride, dilation = choose(rng, (1, 1), (2, 2), draw_pair(rng, 1, 4)), choose(rng, (1, 1), draw_pair(rng, 1, 4))
    padding = [int(side) for side in rng.integers(0, 6, 4)]
    H, W = draw_size(rng, kernel, tuple(padding), dilation)
    window = make_window(kernel, stride, padding, dilation)
    groups, N = int(rng.integers(2, 6)), choose(rng, 1, 2, 4, 5, 33)
    C, O = groups * choose(rng, 1, 1, 2, 3), groups * choose(rng, 1, 1, 2, 3)
    sizes = (C, H, W, N), (O, C // groups, *kernel), (O,), (O, *window.output_size(H, W), N), (C,)
    dtype = choose(rng, np.float32, np.float64)
    return window, groups, [rng.standard_normal(size).astype(dtype) for size in sizes]


def test_equals_the_direct_sums(device, rng, monkeypatch):
    """In blocks of every size: of groups, of rows, and of the positions in a row."""
    for draw_rng in rng.spawn(200 if device.name == "cpu" else 60):
        window, groups, arrays = draw(draw_rng)
        x, weight, bias, dy, x_bias = (device.asarray(array) for array in arrays)
        monkeypatch.setattr(device, "tile_bytes", choose(draw_rng, 1, 4096, 1 << 20))
        monkeypatch.setattr(device, "launch_bytes", choose(draw_rng, 1, 1 << 20))
        monkeypatch.setattr(device, "small_product", choose(draw_rng, 0, 40 * weight.size // groups, 10**6))
        if device is CPU:
            monkeypatch.setattr(device, "part_work", choose(draw_rng, 1, 1 << 25))
        size = x.shape[1:3]
        with noted(window=window, groups=groups, x=x.shape, weight=weight.shape, dtype=x.dtype):
            results = [
                (
                    way.correlate(x, weight, bias, window, groups, device),
                    way.weight_gradient(x, dy, window, groups, device),
                    way.input_gradient(dy, weight, window, groups, size, device),
                    way.input_gradient(dy, weight, window, groups, size, device, x_bias),
                )
                for way in (grouped, im2col)
            ]
            allowed = 1e-11 if x.dtype == np.float64 else 3e-5
            for name, got, expected in zip(("y", "dweight", "dx", "transposed"), *results, strict=True):
                with noted(result=name):
                    assert_close(got, device.to_host(expected), rtol=allowed, atol=allowed, device=device)


@pytest.mark.parametrize(
    ("channels", "groups", "kernel", "taken"),
    [
        (6, 6, 3, [grouped]),
        (64, 2, 3, [grouped]),
        (66, 2, 3, [im2col]),
        (128, 2, 3, [winograd, winograd]),
        (128, 2, 1, [im2col]),
        (6, 1, 7, [im2col]),
    ],
)
def test_which_algorithm_is_taken(channels, groups, kernel, taken, rng, monkeypatch):
    calls = []
    monkeypatch.setattr(CPU, "winograd_channels", 64)
    for way in (grouped, im2col, winograd):
        original = way.correlate
        monkeypatch.setattr(way, "correlate", lambda *args, w=way, f=original: calls.append(w) or f(*args))
    x = rng.standard_normal((8, channels, 8, 8)).astype(np.float32)
    weight = rng.standard_normal((channels, channels // groups, kernel, kernel)).astype(np.float32)
    conv2d_forward(x, weight, groups=groups)
    assert calls == taken


@pytest.mark.parametrize("bias", [True, False])
def test_groups_of_many_channels_are_computed_one_by_one(bias, rng, monkeypatch):
    x, weight = rng.standard_normal((8, 66, 9, 8)), rng.standard_normal((68, 33, 3, 3))
    dy, bias = rng.standard_normal((8, 68, 9, 8)), rng.standard_normal(68) if bias else None
    results = []
    for least in (33, np.inf):
        monkeypatch.setattr(CPU, "winograd_channels", least)
        y, cache = conv2d_forward(x, weight, bias, padding=1, groups=2)
        results.append((y, *conv2d_backward(dy, cache)))
    for got, expected in zip(*results, strict=True):
        if expected is not None:
            assert_close(got, expected, rtol=1e-9, atol=1e-9)


def test_a_pixel_of_nan_stays_in_the_windows_that_cover_it(rng):
    x, weight = rng.standard_normal((4, 3, 12, 12)), rng.standard_normal((3, 1, 3, 3))
    x[0, 0, 5, 5], x[1, 1, 6, 6] = np.nan, np.inf
    with np.errstate(invalid="ignore"):
        y, cache = conv2d_forward(x, weight, padding=1, groups=3)
        dx, _, _ = conv2d_backward(x, cache)
    assert not np.isfinite(y[0, 0, 4:7, 4:7]).any()
    assert not np.isfinite(y[1, 1, 5:8, 5:8]).any()
    assert np.isfinite(y).sum() == y.size - 18
    assert np.isfinite(dx).sum() == dx.size - 18


@pytest.mark.parametrize("stride", [1, 2])
def test_the_same_bits_on_any_number_of_threads(stride, rng):
    window, before = make_window(3, stride, padding=1), CPU.threads
    x, weight = (rng.standard_normal(size).astype(np.float32) for size in ((40, 32, 32, 32), (40, 1, 3, 3)))
    results = []
    try:
        for CPU.threads in (1, 2, 3, 8):
            y = grouped.correlate(x, weight, None, window, 40, CPU)
            dx = grouped.input_gradient(y, weight, window, 40, (32, 32), CPU)
            results.append([array.tobytes() for array in (y, dx, grouped.weight_gradient(x, y, window, 40, CPU))])
    finally:
        CPU.threads = before
    assert all(result == results[0] for result in results)
