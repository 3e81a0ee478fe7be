"""Dilated convolutions that are computed without dilation, on images taken apart."""

import numpy as np
import pytest
from helpers import assert_close
from pytorch import single_threaded_torch

from xpcnn.backend import CPU
from xpcnn.functional import conv2d_backward, conv2d_forward, dilation

CASES = [  # (N, C, O, H, W, kernel, padding, dilation)
    (32, 8, 16, 13, 14, (3, 3), 2, 2),
    (32, 4, 4, 9, 11, (3, 3), 4, 2),
    (32, 4, 4, 9, 11, (3, 3), 1, 2),
    (32, 4, 4, 9, 12, (3, 3), 5, 3),
    (16, 4, 4, 9, 11, (2, 3), 0, (3, 2)),
    (4, 64, 70, 30, 29, (3, 3), 2, 2),  # by Winograd's algorithm
    (5, 64, 64, 23, 24, (3, 3), (1, 3), (2, 3)),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_pytorch(case, rng, monkeypatch):
    torch = single_threaded_torch()
    N, C, O, H, W, kernel, padding, step = case
    monkeypatch.setattr(CPU, "small_product", 10**6)
    monkeypatch.setattr(CPU, "winograd_channels", 64)
    taken_apart, split = [], dilation.split
    monkeypatch.setattr(dilation, "split", lambda *args: taken_apart.append(args) or split(*args))
    arrays = [rng.normal(size=shape) for shape in ((N, C, H, W), (O, C, *kernel), (O,))]
    y, cache = conv2d_forward(*arrays, padding=padding, dilation=step)
    dy = rng.normal(size=y.shape)
    gradients = conv2d_backward(dy, cache)
    assert len(taken_apart) == 4  # the input twice, and the gradient for the input's and for the weight's
    tensors = [torch.tensor(array, requires_grad=True) for array in arrays]
    expected = torch.nn.functional.conv2d(*tensors, padding=padding, dilation=step)
    expected.backward(torch.tensor(dy))
    assert_close(y, expected.detach().numpy(), 1e-9, 1e-10)
    for gradient, tensor in zip(gradients, tensors, strict=True):
        assert_close(gradient, tensor.grad.numpy(), 1e-9, 1e-10)


def test_the_same_bits_on_any_number_of_threads(rng, monkeypatch):
    monkeypatch.setattr(CPU, "small_product", 10**6)
    x, weight = (rng.standard_normal(shape, np.float32) for shape in ((4, 64, 60, 60), (64, 64, 3, 3)))
    found, threads = [], CPU.threads
    try:
        for CPU.threads in (1, 3):
            y, cache = conv2d_forward(x, weight, padding=2, dilation=2)
            found.append((y, *conv2d_backward(y, cache)[:2]))
    finally:
        CPU.threads = threads
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
