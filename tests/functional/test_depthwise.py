"""Depthwise convolution of one small image against that of `by_rows.py`."""

import numpy as np
import pytest
from helpers import assert_close
from inputs import choose, draw_pair, noted

from xpcnn.functional import by_rows, conv2d, depthwise
from xpcnn.functional.windows import make_window


def test_equals_the_products(device, rng):
    for draw in rng.spawn(60):
        kernel, stride, dilation = (draw_pair(draw, 1, high) for high in (4, 3, 3))
        padding = [int(side) for side in draw.integers(0, 4, 4)]
        window = make_window(kernel, stride, padding, dilation)
        H, W = ((size - 1) * step + int(draw.integers(1, 5)) for size, step in zip(kernel, dilation, strict=True))
        C, dtype = int(draw.integers(1, 20)), choose(draw, np.float32, np.float64)
        sizes = (C, H, W, 1), (C, 1, *kernel), (C,)
        x, weight, bias = (device.asarray(draw.standard_normal(size).astype(dtype)) for size in sizes)
        limits, kept = choose(draw, None, (-1, 2)), choose(draw, None, {})
        with noted(window=window, x=x.shape, dtype=dtype, limits=limits):
            expected = by_rows.correlate(x, weight, bias, window, C, device, limits)
            for _ in range(2):
                got = depthwise.correlate(x, weight, bias, window, device, limits, kept)
                allowed = 1e-12 if dtype == np.float64 else 1e-5
                assert_close(got, device.to_host(expected), rtol=allowed, atol=allowed, device=device)


@pytest.mark.parametrize(
    ("channels", "size", "images", "stride", "taken"),
    [(65, 8, 1, 1, True), (64, 8, 1, 1, False), (65, 8, 2, 1, False), (20, 8, 1, 2, True)],
)
def test_images_with_more_channels_than_pixels(channels, size, images, stride, taken, rng, monkeypatch):
    calls = []
    original = depthwise.correlate
    monkeypatch.setattr(depthwise, "correlate", lambda *args: calls.append(1) or original(*args))
    x, weight = rng.standard_normal((images, channels, size, size)), rng.standard_normal((channels, 1, 3, 3))
    conv2d(x, weight, padding=1, stride=stride, groups=channels)
    assert bool(calls) is taken


def test_kept_filters_serve_one_image_and_many(rng):
    weight, kept = rng.standard_normal((20, 1, 3, 3)), {}
    images = rng.standard_normal((3, 20, 4, 4))
    together = conv2d(images, weight, padding=1, groups=20, kept=kept)
    for image, expected in zip(images, together, strict=True):
        got = conv2d(image[None], weight, padding=1, groups=20, kept=kept)
        np.testing.assert_allclose(got[0], expected, rtol=1e-12, atol=1e-12)
