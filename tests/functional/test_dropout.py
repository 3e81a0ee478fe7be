"""Dropout: one mask for one key on every device, with the right mean and no pattern."""

from itertools import pairwise

import numpy as np
import pytest
from helpers import assert_close
from inputs import MEMORY, in_memory, refused

from xpcnn.functional import dropout_backward, dropout_forward

SHAPE = (32, 8, 25, 25)


def mask(key, p=0.5, shape=SHAPE):
    """Return what NumPy multiplies by."""
    return dropout_forward(np.ones(shape, np.float32), p, key)[0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_key_gives_one_mask_on_every_device_and_in_every_memory(dtype, device, rng):
    x, dy = (rng.normal(size=(5, 3, 7, 9)).astype(dtype) for _ in range(2))
    key = (2**32 - 1, 12345)
    expected = x * dropout_forward(np.ones(x.shape, dtype), 0.3, key)[0]
    for order in MEMORY:
        y, cache = dropout_forward(in_memory(device, x, order), 0.3, key)
        assert_close(y, expected, 0, 0, device=device)
        dx = dropout_backward(in_memory(device, dy, order), cache)
        assert_close(dx, dy * dropout_forward(np.ones(x.shape, dtype), 0.3, key)[0], 0, 0, device=device)


@pytest.mark.parametrize("p", [0.01, 0.5, 0.9])
def test_mean_and_variance(p):
    values, counts = np.unique(mask((7, 0), p), return_counts=True)
    assert np.array_equal(values, np.array([0, np.float32(1 / (1 - p))], np.float32))
    n = counts.sum()
    assert abs(counts[0] - p * n) < 4 * np.sqrt(p * (1 - p) * n)  # four standard deviations of a binomial


def test_nothing_is_dropped_with_probability_zero(device, rng):
    x = rng.normal(size=(4, 100)).astype(np.float32)
    y, cache = dropout_forward(device.asarray(x), 0.0, (1, 2))
    assert_close(y, x, 0, 0, device=device)
    assert_close(dropout_backward(device.asarray(x), cache), x, 0, 0, device=device)


def test_keys_elements_and_channels_are_uncorrelated():
    keys = [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (2**31, 0), (0, 2**31)]
    signs = np.array([np.sign(mask(key) - 0.5).ravel() for key in keys])
    n = signs.shape[1]
    correlation = signs @ signs.T / n
    assert np.abs(correlation - np.eye(len(keys))).max() < 5 / np.sqrt(n)
    for other, first in pairwise(signs[0].reshape(SHAPE).transpose(1, 2, 3, 0).reshape(8, -1)):
        assert abs(other @ first) / other.size < 5 / np.sqrt(other.size)
    flat = signs[0].reshape(SHAPE).transpose(1, 2, 3, 0).ravel()
    for step in (1, 2, 16, 32, 800):
        assert abs(flat[step:] @ flat[:-step]) / n < 5 / np.sqrt(n)


@pytest.mark.parametrize("p", [-0.1, 1.0, float("nan")])
def test_a_probability_out_of_range_is_refused(p):
    with refused("p must be at least 0 and below 1", str(p)):
        dropout_forward(np.ones((2, 2), np.float32), p, (0, 0))


def test_the_largest_probability_below_one_is_taken(device):
    y, _ = dropout_forward(device.asarray(np.ones((2, 50), np.float64)), np.nextafter(1, 0), (0, 0))
    assert_close(y, np.zeros((2, 50)), 0, 0, device=device)
