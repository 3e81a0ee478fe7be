"""Random options for windows, and arrays in every order of memory."""

from contextlib import contextmanager

import numpy as np
import pytest
from reference import four_sides

from xpcnn.backend import batch_first

MEMORY = ("NCHW", "channel-major", "sliced")


@contextmanager
def noted(**draw):
    """Name what was drawn in any error inside the block."""
    try:
        yield
    except BaseException as error:
        error.add_note("drawn: " + ", ".join(f"{name}={value!r}" for name, value in draw.items()))
        raise


@contextmanager
def refused(*words, error=ValueError):
    """Expect an error in the block, with all of these words in its message."""
    with pytest.raises(error) as info:
        yield
    for word in words:
        assert word in str(info.value)


def choose(rng, *options):
    return options[rng.integers(len(options))]


def draw_pair(rng, low, high):
    return tuple(int(number) for number in rng.integers(low, high + 1, 2))


def as_int_or_pair(rng, pair):
    """Write a pair as one number where it may be."""
    return pair[0] if pair[0] == pair[1] and rng.random() < 0.5 else pair


def draw_size(rng, kernel, padding, dilation, most=5):
    """Draw the height and width of an image, from the least that the window fits."""
    left, right, top, bottom = four_sides(padding, kernel, dilation)
    least = [
        (kernel[0] - 1) * dilation[0] + 1 - top - bottom,
        (kernel[1] - 1) * dilation[1] + 1 - left - right,
    ]
    return tuple(max(1, size) + int(rng.integers(0, most)) for size in least)


def in_memory(device, x, order):
    """Return `x (N, ..., W)` on a device, its values in one of several orders of memory."""
    if order == "NCHW":
        return device.asarray(np.ascontiguousarray(x))
    if order == "channel-major":
        return batch_first(device.asarray(np.ascontiguousarray(x.transpose(*range(1, x.ndim), 0))))
    # Every second image and column of something larger, whose other values would be noticed.
    larger = np.full((2 * x.shape[0], *(size + 3 for size in x.shape[1:-1]), 2 * x.shape[-1]), np.nan, x.dtype)
    part = (slice(None, None, 2), *(slice(2, -1) for _ in x.shape[1:-1]), slice(1, None, 2))
    larger[part] = x
    return device.asarray(larger)[part]
