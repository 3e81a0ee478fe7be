"""Winograd's convolution against the direct one: the same sums in another order."""

import math

import numpy as np
import pytest
from helpers import assert_close
from inputs import noted

from xpcnn.backend import CPU
from xpcnn.functional import conv2d, conv2d_backward, conv2d_forward, im2col, winograd
from xpcnn.functional.windows import make_window


def draw(rng):
    """Return a window and float64 arrays x, weight, bias and dy for it, all in the batch-last layout."""
    while True:
        C, O = (int(n) for n in rng.integers(1, 6, 2))
        H, W = (int(n) for n in rng.integers(1, 15, 2))
        window = make_window(3, padding=[int(n) for n in rng.integers(0, 3, 4)])
        try:
            OH, OW = window.output_size(H, W)
        except ValueError:
            continue
        N = int(rng.choice([1, 3, 33, 150]))
        sizes = (C, H, W, N), (O, C, 3, 3), (O,), (O, OH, OW, N)
        return window, [rng.standard_normal(size) for size in sizes]


@pytest.mark.parametrize("tile_bytes", [1, 1 << 20])
def test_equals_the_direct_sums(device, rng, monkeypatch, tile_bytes):
    monkeypatch.setattr(device, "tile_bytes", tile_bytes)
    for draw_rng in rng.spawn(30 if device.name == "cpu" else 8):
        window, arrays = draw(draw_rng)
        x, weight, bias, dy = (device.asarray(array) for array in arrays)
        with noted(window=window, x=x.shape, weight=weight.shape):
            pairs = [
                (
                    winograd.correlate(x, weight, bias, window, device),
                    im2col.correlate(x, weight, bias, window, 1, device),
                ),
                (winograd.weight_gradient(x, dy, window, device), im2col.weight_gradient(x, dy, window, 1, device)),
                (
                    winograd.input_gradient(dy, weight, window, device),
                    im2col.input_gradient(dy, weight, window, 1, x.shape[1:3], device),
                ),
            ]
            for got, expected in pairs:
                assert_close(got, device.to_host(expected), rtol=1e-10, atol=1e-11, device=device)


@pytest.mark.parametrize("size", [8, 6])  # patches of 4×4 and of 3×3
def test_float32_stays_within_one_part_in_a_hundred_thousand(size, rng):
    for channels in (16, 64, 256):
        window = make_window(3, padding=1)
        x, dy = (rng.standard_normal((channels, size, size, 32)) for _ in range(2))
        weight = rng.standard_normal((channels, channels, 3, 3)) / np.sqrt(9 * channels)
        small = [array.astype(np.float32) for array in (x, weight, dy)]
        exact = [array.astype(np.float64) for array in small]
        for got, expected in (
            (
                winograd.correlate(small[0], small[1], None, window, CPU),
                im2col.correlate(*exact[:2], None, window, 1, CPU),
            ),
            (
                winograd.input_gradient(small[2], small[1], window, CPU),
                im2col.input_gradient(exact[2], exact[1], window, 1, (size, size), CPU),
            ),
            (
                winograd.weight_gradient(small[0], small[2], window, CPU),
                im2col.weight_gradient(exact[0], exact[2], window, 1, CPU),
            ),
        ):
            assert np.abs(got - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("options", "taken"),
    [
        ({"padding": 1}, True),
        ({"padding": (0, 1, 2, 1)}, True),
        ({"padding": 3}, False),
        ({"stride": 2}, False),
        ({"dilation": 2, "images": 7}, False),  # 28 patches of the four images that each is taken apart into
        ({"dilation": 2, "padding": 2}, True),
        ({"dilation": 2, "stride": 2}, False),
        ({"groups": 2}, False),
        ({"channels": 63}, False),
        ({"kernel": 5}, False),
        ({"images": 7}, False),
    ],
)
def test_it_is_taken_where_it_applies_and_nowhere_else(rng, monkeypatch, options, taken):
    options = dict(options)
    channels, kernel, groups = options.pop("channels", 64), options.pop("kernel", 3), options.get("groups", 1)
    images = options.pop("images", 8)
    calls = []
    monkeypatch.setattr(CPU, "winograd_channels", 64)
    for name in ("correlate", "weight_gradient", "input_gradient"):
        original = getattr(winograd, name)
        monkeypatch.setattr(winograd, name, lambda *args, n=name, f=original: calls.append(n) or f(*args))
    x = rng.standard_normal((images, channels, 8, 8), np.float32)
    weight = rng.standard_normal((channels, channels // groups, kernel, kernel), np.float32)
    y, cache = conv2d_forward(x, weight, np.zeros(channels, np.float32), **options)
    assert calls == (["correlate"] if taken else [])
    conv2d_backward(y, cache)
    assert len(calls) == (4 if taken else 0)  # the gradient w.r.t. the input is itself a correlation


def test_a_small_output_has_patches_that_fit(rng, monkeypatch):
    """Also in turns with a larger one, by the same layer in evaluation, whose filters are transformed for each."""
    monkeypatch.setattr(CPU, "winograd_channels", 4)
    made, original = [], winograd._transforms
    monkeypatch.setattr(winograd, "_transforms", lambda device, dtype, M: made.append(M) or original(device, dtype, M))
    weight, kept = rng.standard_normal((4, 4, 3, 3)), {}
    for size, M in ((3, 3), (4, 4), (6, 3), (7, 4), (9, 3), (10, 4), (6, 3)):
        x = rng.standard_normal((32, 4, size, size))
        made.clear()
        y = conv2d(x, weight, padding=1, kept=kept)
        assert set(made) == {M}
        expected = im2col.correlate(*(x.transpose(1, 2, 3, 0).copy(), weight), None, make_window(3, padding=1), 1, CPU)
        np.testing.assert_allclose(y, expected.transpose(3, 0, 1, 2), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize(
    ("channels", "images", "settings", "taken"),
    [
        ((24, 64), 64, {}, True),
        ((64, 24), 64, {}, True),
        ((24, 63), 64, {}, False),
        ((23, 80), 64, {}, False),
        ((24, 64), 63, {}, False),
        ((24, 64), 64, {"winograd_few": math.inf}, False),  # as with AVX2
        ((24, 64), 64, {"winograd_channels": math.inf}, False),  # turned off
    ],
)
def test_few_channels_are_made_up_for_in_large_layers(channels, images, settings, taken, monkeypatch):
    for name, value in ({"winograd_channels": 64, "winograd_few": 24} | settings).items():
        monkeypatch.setattr(CPU, name, value)
    C, O = channels
    weight = np.empty((O, C, 3, 3), np.float32)
    assert winograd.applies(make_window(3, padding=1), weight, 1, (15, 16, images), CPU) is taken


def test_the_same_bits_on_any_number_of_threads(rng):
    window, before = make_window(3, padding=1), CPU.threads
    x, dy = (rng.standard_normal((16, 20, 20, 40)).astype(np.float32) for _ in range(2))
    weight = rng.standard_normal((16, 16, 3, 3)).astype(np.float32)
    results = []
    try:
        for CPU.threads in (1, 2, 4):
            results.append(
                (
                    winograd.correlate(x, weight, None, window, CPU),
                    winograd.input_gradient(dy, weight, window, CPU),
                    winograd.weight_gradient(x, dy, window, CPU),
                )
            )
    finally:
        CPU.threads = before
    for others in results[1:]:
        for got, expected in zip(others, results[0], strict=True):
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("channels", [16, math.inf])
def test_a_pixel_of_nan_or_a_million_spreads_unless_it_is_turned_off(channels, rng, monkeypatch):
    monkeypatch.setattr(CPU, "winograd_channels", channels)
    x, weight = rng.normal(size=(8, 16, 24, 24)).astype(np.float32), rng.normal(size=(16, 16, 3, 3)).astype(np.float32)
    x[0, 0, 10, 10] = np.nan
    touched = np.isnan(conv2d_forward(x, weight, padding=1)[0]).sum()
    assert touched == 16 * 9 if channels == math.inf else touched > 16 * 9
    x[0, 0, 10, 10] = 1e6
    exact, _ = conv2d_forward(x.astype(np.float64), weight.astype(np.float64), padding=1)
    error = abs(conv2d_forward(x, weight, padding=1)[0] - exact)
    error[0, :, 9:12, 9:12] = 0  # the windows that cover the pixel
    assert error.max() < 1e-4 if channels == math.inf else error.max() > 1e-3


@pytest.mark.parametrize(
    ("channels", "size", "kept", "taken"),
    [(64, 16, {}, True), (64, 16, None, False), (64, 12, {}, False), (32, 16, {}, False), (256, 16, {}, False)],
)
def test_a_single_image_needs_fewer_patches_where_filters_are_kept(channels, size, kept, taken, rng, monkeypatch):
    monkeypatch.setattr(CPU, "winograd_channels", 32)
    x, weight = rng.standard_normal((1, channels, size, size)), rng.standard_normal((channels, channels, 3, 3))
    x, weight = x.astype(np.float32), weight.astype(np.float32)
    calls, original = [], winograd.correlate
    monkeypatch.setattr(winograd, "correlate", lambda *args: calls.append(1) or original(*args))
    for _ in range(2):
        y = conv2d(x, weight, padding=1, kept=kept)
    assert bool(calls) is taken
    np.testing.assert_allclose(y, conv2d_forward(x, weight, padding=1)[0], rtol=1e-3, atol=1e-3)
