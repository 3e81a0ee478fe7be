"""Pictures inside a page, read back by Pillow."""

import io

import numpy as np
import pytest

from xpcnn.report.pictures import displayable, picture, png, reduced

pillow = pytest.importorskip("PIL.Image", reason="reading a PNG needs the viz extra")


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (4, 3, 1), (5, 9, 3), (2, 6, 4)])
def test_pillow_reads_the_same_pixels(shape, rng):
    pixels = rng.integers(0, 256, shape).astype(np.uint8)
    found = np.asarray(pillow.open(io.BytesIO(png(pixels))))
    np.testing.assert_array_equal(found, pixels[..., 0] if shape[-1:] == (1,) and len(shape) == 3 else pixels)


def test_floats_are_scaled_and_further_channels_left_out():
    image = np.array([[[-1.0, 0.0, 1.0]], [[9.0, 9.0, 9.0]]])
    np.testing.assert_array_equal(displayable(image)[..., 0], [[0, 128, 255]])
    np.testing.assert_array_equal(displayable(np.full((3, 1, 1), 7.0)), np.zeros((1, 1, 3)))


def test_large_images_are_reduced_by_the_mean():
    pixels = np.zeros((300, 200, 3), np.uint8)
    pixels[:3, :3, 1] = np.arange(9).reshape(3, 3) * 10
    small = reduced(pixels)
    assert small.shape == (100, 66, 3)
    assert small[0, 0].tolist() == [0, 40, 0]
    assert reduced(pixels[:128, :128]) is not None
    assert reduced(np.zeros((1, 1000, 3), np.uint8)).shape == (1, 1000, 3)
    assert 'width="66" height="100"' in picture(pixels.transpose(2, 0, 1), "large")
