"""Averaged views against a slow loop, and padding by reflection."""

import numpy as np
import pytest
from helpers import assert_close
from inputs import refused

from xpcnn.functional import pad_reflect
from xpcnn.nn import AverageViews, Conv2d, Flatten, Linear, Sequential


def reflected(i, length):
    return -i if i < 0 else 2 * (length - 1) - i if i >= length else i


def moved(images, shift):
    """The images moved to the lower right by so many pixels, the slow and obvious way."""
    H, W = images.shape[2:]
    result = np.empty_like(images)
    for i in range(H):
        for j in range(W):
            result[:, :, i, j] = images[:, :, reflected(i - shift, H), reflected(j - shift, W)]
    return result


@pytest.mark.parametrize("views", [1, 2, 6])
def test_the_mean_over_views(views, device, rng):
    model = Sequential(Conv2d(2, 3, 3, rng=rng), Flatten(), Linear(24, 4, rng=rng)).to(dtype=np.float64)
    images = rng.normal(size=(5, 2, 4, 6))

    def outputs(images):
        return model.to("cpu")(images)

    weights = {1: {(0, 1): 1}, 2: {(0, 1): 1 / 2, (0, -1): 1 / 2}}
    weights[6] = {(shift, side): 1 / 8 for shift in (1, -1) for side in (1, -1)} | {(0, 1): 1 / 4, (0, -1): 1 / 4}
    expected = sum(weight * outputs(moved(images, n)[..., ::side]) for (n, side), weight in weights[views].items())
    averaged = AverageViews(model.to(device), views).eval()
    assert_close(averaged(device.asarray(images)), expected, 1e-12, 1e-13, device=device)
    assert repr(averaged).startswith(f"AverageViews(views={views}")


@pytest.mark.parametrize("margin", [0, 1, 3])
def test_padding_by_reflection(margin, device, rng):
    x = rng.integers(0, 256, (2, 3, 4, 5), np.uint8)
    expected = np.pad(x, ((0, 0), (0, 0), (margin, margin), (margin, margin)), mode="reflect")
    assert_close(pad_reflect(device.asarray(x), margin), expected, 0, 0, device=device)


def test_what_does_not_fit_is_refused():
    with refused("1, 2 or 6", "4"):
        AverageViews(Flatten(), 4)
    for margin in (-1, 4):
        with refused("4×5", str(margin)):
            pad_reflect(np.zeros((1, 1, 4, 5)), margin)
