"""Convolution lowered along one axis against the direct one: the same sums, in tiles of every window."""

import numpy as np
import pytest
from helpers import assert_close
from inputs import choose, draw_pair, draw_size, noted

from xpcnn.backend import CPU
from xpcnn.functional import conv2d_backward, conv2d_forward, im2col, mec
from xpcnn.functional.windows import flipped, make_window


def draw(rng, most_stride):
    """Return a window and float64 arrays x, weight, bias and dy for it, all in the batch-last layout."""
    kernel, dilation = draw_pair(rng, 1, 5), (int(rng.integers(1, 3)), 1)
    padding = [int(n) for n in rng.integers(0, 4, 4)]
    window = make_window(kernel, draw_pair(rng, 1, most_stride), padding, dilation)
    H, W = draw_size(rng, kernel, tuple(padding), dilation)
    C, O = (int(n) for n in rng.integers(1, 6, 2))
    OH, OW = window.output_size(H, W)
    N = choose(rng, 16, 33, 150)
    sizes = (C, H, W, N), (O, C, *kernel), (O,), (O, OH, OW, N)
    return window, [rng.standard_normal(size) for size in sizes]


@pytest.mark.parametrize("tile_bytes", [1, 1 << 14, 1 << 20])
def test_equals_the_direct_sums(device, rng, monkeypatch, tile_bytes):
    monkeypatch.setattr(device, "tile_bytes", tile_bytes)
    met = set()
    for i, draw_rng in enumerate(rng.spawn(40 if device.name == "cpu" else 20)):
        window, arrays = draw(draw_rng, 1 + i % 3)
        x, weight, bias, dy = (device.asarray(array) for array in arrays)
        # From products of sixteen images to products of all of them.
        monkeypatch.setattr(device, "small_product", weight.size * 16 * choose(draw_rng, 1, 2, 1000))
        # With and without a transposed copy of dy, in products of one image's rows to whole rows.
        monkeypatch.setattr(mec, "_TRANSPOSED_FROM", choose(draw_rng, 0, 256))
        monkeypatch.setattr(mec, "_OPERAND", choose(draw_rng, 1, 1 << 15))
        with noted(window=window, x=x.shape, weight=weight.shape, small_product=device.small_product):
            pairs = [
                (mec.correlate(x, weight, bias, window, device), im2col.correlate(x, weight, bias, window, 1, device))
            ]
            if window.stride[1] == 1:
                pairs.append(
                    (mec.weight_gradient(x, dy, window, device), im2col.weight_gradient(x, dy, window, 1, device))
                )
                met.add("weight")
            flipped_weight, flipped_window = flipped(weight, window, device)
            if window.stride == (1, 1) and mec.applies(flipped_window, flipped_weight, 1, x.shape[3], device):
                dx = im2col.input_gradient(dy, weight, window, 1, x.shape[1:3], device)
                pairs.append((mec.correlate(dy, flipped_weight, None, flipped_window, device), dx))
                met.add("input")
            for got, expected in pairs:
                assert_close(got, device.to_host(expected), rtol=1e-10, atol=1e-11, device=device)
    assert met == {"weight", "input"}


def test_products_take_multiples_of_sixteen_images():
    """256 images in five blocks of 48 and one of 16 or the like, as those of 42 or 43 take a tenth longer."""
    for N, most in ((256, 54), (150, 40), (16, 16), (17, 16)):
        _, images = mec._row_and_image_blocks(14, N, most, 1000, 4, CPU)
        assert [part.start for part in images] == [0, *(part.stop for part in images[:-1])]
        assert images[-1].stop == N
        sizes = [part.stop - part.start for part in images]
        assert max(sizes) <= most
        assert not any(size % 16 for size in sizes[:-1])


@pytest.mark.parametrize(
    ("options", "calls"),
    [
        ({}, ["correlate", "correlate", "weight_gradient"]),
        ({"images": 15}, []),
        ({"groups": 2}, []),
        ({"dilation": (1, 2)}, ["correlate", "weight_gradient"]),
        ({"dilation": 2, "padding": 2}, ["correlate", "correlate", "weight_gradient"]),
        ({"dilation": 2, "padding": 2, "images": 3}, []),
        ({"dilation": (2, 1)}, ["correlate", "correlate", "weight_gradient"]),
        ({"stride": (1, 2)}, ["correlate"]),
        ({"stride": (2, 1)}, ["correlate", "weight_gradient"]),
        ({"padding": 3}, ["correlate", "weight_gradient"]),  # more than a gradient could be padded by
        ({"padding": 0, "size": 4}, ["correlate", "weight_gradient"]),  # the gradient's windows would meet mostly zeros
        ({"channels": 96}, []),
    ],
)
def test_it_is_taken_where_it_applies_and_nowhere_else(rng, monkeypatch, options, calls):
    options = {"padding": 1} | options
    channels, images, size = (options.pop(*option) for option in (("channels", 4), ("images", 16), ("size", 8)))
    seen = []
    for name in ("correlate", "weight_gradient"):
        original = getattr(mec, name)
        monkeypatch.setattr(mec, name, lambda *args, n=name, f=original: seen.append(n) or f(*args))
    monkeypatch.setattr(CPU, "winograd_channels", np.inf)
    monkeypatch.setattr(CPU, "small_product", 10**6)
    x = rng.standard_normal((images, channels, size, size), np.float32)
    weight = rng.standard_normal((channels, channels // options.get("groups", 1), 3, 3), np.float32)
    y, cache = conv2d_forward(x, weight, None, **options)
    conv2d_backward(y, cache)
    assert seen == calls


def test_the_same_bits_on_any_number_of_threads(rng, monkeypatch):
    window = make_window(3, padding=1)
    x, dy = (rng.standard_normal((16, 20, 20, 40)).astype(np.float32) for _ in range(2))
    weight = rng.standard_normal((16, 16, 3, 3)).astype(np.float32)
    monkeypatch.setattr(CPU, "small_product", 10**6)
    results = []
    before = CPU.threads
    try:
        for CPU.threads in (1, 2, 4):
            results.append((mec.correlate(x, weight, None, window, CPU), mec.weight_gradient(x, dy, window, CPU)))
    finally:
        CPU.threads = before
    for others in results[1:]:
        for got, expected in zip(others, results[0], strict=True):
            np.testing.assert_array_equal(got, expected)
