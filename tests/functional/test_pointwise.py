"""Convolution with 1×1 windows as one product."""

import numpy as np
import pytest
from helpers import assert_close, to_device
from inputs import MEMORY, in_memory

from xpcnn.backend import CPU
from xpcnn.functional import conv2d_backward, conv2d_forward, im2col, mec

SIZES = [  # (N, C, O, H, W)
    (2, 3, 5, 4, 7),
    (7, 24, 40, 9, 13),  # small products, and a rest
    (33, 40, 24, 20, 21),  # several parts, and the weight's gradient with fewer rows than columns
    (3, 200, 170, 5, 6),  # products that are not small
]


@pytest.mark.parametrize("small_product", [0, 10**6])
@pytest.mark.parametrize("stride", [1, 2, (3, 1)], ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_the_formula_and_its_gradients(sizes, stride, small_product, device, rng, monkeypatch):
    if device is CPU:
        monkeypatch.setattr(CPU, "small_product", small_product)
    for other in (im2col, mec):
        monkeypatch.setattr(other, "correlate", None)
    N, C, O, H, W = sizes
    x, weight, bias = rng.normal(size=(N, C, H, W)), rng.normal(size=(O, C, 1, 1)), rng.normal(size=O)
    y, cache = conv2d_forward(in_memory(device, x, MEMORY[0]), *to_device(device, weight, bias), stride=stride)
    rows, cols = (stride, stride) if isinstance(stride, int) else stride
    pixels, matrix = x[:, :, ::rows, ::cols], weight[:, :, 0, 0]
    assert_close(y, np.einsum("oc,nchw->nohw", matrix, pixels) + bias[:, None, None], 1e-9, 1e-9, device=device)
    dy = rng.normal(size=y.shape)
    dx, dweight, dbias = conv2d_backward(device.asarray(dy), cache)
    expected = np.zeros(x.shape)
    expected[:, :, ::rows, ::cols] = np.einsum("oc,nohw->nchw", matrix, dy)
    assert_close(dx, expected, 1e-9, 1e-9, device=device)
    assert_close(dweight[:, :, 0, 0], np.einsum("nohw,nchw->oc", dy, pixels), 1e-9, 1e-9, device=device)
    assert_close(dbias, dy.sum((0, 2, 3)), 1e-9, 1e-9, device=device)


def test_the_same_bits_on_any_number_of_threads(rng):
    x, weight, bias = (rng.standard_normal(s, np.float32) for s in ((33, 40, 40, 41), (56, 40, 1, 1), (56,)))
    found, threads = [], CPU.threads
    try:
        for CPU.threads in (1, 3):
            y, cache = conv2d_forward(x, weight, bias)
            found.append((y, *conv2d_backward(y, cache)))
    finally:
        CPU.threads = threads
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
