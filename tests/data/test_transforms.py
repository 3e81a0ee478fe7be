"""Augmentation against slow loops and exact cases, one option at a time."""

import numpy as np
import pytest

from xpcnn.data import Compose, RandomAffine, RandomHorizontalFlip, RandomShift


def some_images(count=200, channels=2, height=7, width=6, dtype=np.uint8):
    return np.random.default_rng(0).integers(1, 256, (count, channels, height, width)).astype(dtype)


def generator(seed=1):
    return np.random.default_rng(seed)


class Extreme:
    """Draws the same point of every range: 0 is its low end, 1 its high end."""

    def __init__(self, point):
        self.point = point

    def uniform(self, low, high, size):
        return np.full(size, low + self.point * (high - low))


def moved(images, down, right):
    """The images moved by whole pixels, the slow and obvious way."""
    result = np.zeros_like(images)
    H, W = images.shape[2:]
    for i in range(H):
        for j in range(W):
            if 0 <= i - down < H and 0 <= j - right < W:
                result[..., i, j] = images[..., i - down, j - right]
    return result


@pytest.mark.parametrize(
    "transform",
    [
        RandomShift(2),
        RandomHorizontalFlip(0.5),
        RandomAffine(10, (0.8, 1.2), 10, (0.1, 0.2)),
        Compose([RandomShift(1), RandomHorizontalFlip()]),
    ],
    ids=lambda transform: type(transform).__name__,
)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_every_transform_keeps_the_form_and_follows_the_generator(transform, dtype):
    images = some_images(50, dtype=dtype)
    before = images.copy()
    result = transform(images, generator())
    assert (result.shape, result.dtype) == (images.shape, dtype)
    np.testing.assert_array_equal(images, before)
    np.testing.assert_array_equal(result, transform(images, generator()))
    assert not np.array_equal(result, transform(images, generator(2)))
    # All channels of an image change alike, and images differ from each other.
    one = np.repeat(np.repeat(images[:1, :1], 2, axis=1), 50, axis=0)
    result = transform(one, generator())
    np.testing.assert_array_equal(result[:, 0], result[:, 1])
    assert len({image.tobytes() for image in result}) > 1


def test_shift_draws_every_shift_up_to_the_limit_and_no_other():
    images = some_images()
    shifts = {(down, right): moved(images, down, right) for down in range(-3, 4) for right in range(-3, 4)}
    seen = set()
    for n, image in enumerate(RandomShift(2)(images, generator())):
        matches = [shift for shift, expected in shifts.items() if np.array_equal(image, expected[n])]
        assert len(matches) == 1
        seen.add(matches[0])
    assert seen == {(down, right) for down in range(-2, 3) for right in range(-2, 3)}
    np.testing.assert_array_equal(RandomShift(0)(images, generator()), images)


def test_flip_mirrors_the_given_share_of_the_images():
    images = some_images(1000, 1, 2, 3)
    for p in (0.0, 0.3, 1.0):
        result = RandomHorizontalFlip(p)(images, generator())
        flipped = (result == images[..., ::-1]).all(axis=(1, 2, 3))
        kept = (result == images).all(axis=(1, 2, 3))
        assert (flipped | kept).all()
        assert abs((flipped & ~kept).mean() - p) < 0.05


def test_compose_applies_in_order_from_one_generator():
    images, draws = some_images(), generator()
    shift, flip = RandomShift(2), RandomHorizontalFlip()
    expected = flip(shift(images, draws), draws)
    np.testing.assert_array_equal(Compose([shift, flip])(images, generator()), expected)


def affine_reference(image, angle, scale, lean, right, down):
    """One image (H, W): p' = scale · R(angle) · shear(lean) · p + shift about the centre, inverted numerically."""
    H, W = image.shape
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])  # on (x, y), y down
    inverse = np.linalg.inv(scale * rotation @ np.array([[1, np.tan(lean)], [0, 1]]))
    centre = np.array([(W - 1) / 2, (H - 1) / 2])

    def pixel(i, j):
        return float(image[i, j]) if 0 <= i < H and 0 <= j < W else 0.0

    result = np.empty((H, W))
    for i in range(H):
        for j in range(W):
            x, y = inverse @ (np.array([j, i]) - centre - (right * W, down * H)) + centre
            j0, i0 = int(np.floor(x)), int(np.floor(y))
            result[i, j] = sum(
                (1 - abs(x - jj)) * (1 - abs(y - ii)) * pixel(ii, jj) for ii in (i0, i0 + 1) for jj in (j0, j0 + 1)
            )
    return result


@pytest.mark.parametrize("point", [0, 0.3, 1])
@pytest.mark.parametrize(
    "options",
    [
        {"degrees": 25},
        {"scale": (0.7, 1.4)},
        {"shear": 20},
        {"translate": (0.2, 0)},
        {"translate": (0, 0.3)},
        {"degrees": 200, "scale": (0.5, 2), "shear": 30, "translate": (0.1, 0.25)},
    ],
    ids=str,
)
def test_affine_agrees_with_the_matrix(options, point):
    images = some_images(2, 2, dtype=np.float64)
    result = RandomAffine(**options)(images, Extreme(point))
    low, high = options.get("scale", (1, 1))
    angle, lean = (np.radians((2 * point - 1) * options.get(name, 0)) for name in ("degrees", "shear"))
    right, down = ((2 * point - 1) * part for part in options.get("translate", (0, 0)))
    for n in range(2):
        for c in range(2):
            expected = affine_reference(images[n, c], angle, low + point * (high - low), lean, right, down)
            np.testing.assert_allclose(result[n, c], expected, atol=1e-9)
    rounded = RandomAffine(**options)(images.astype(np.uint8), Extreme(point))
    assert np.abs(rounded - result).max() <= 0.5 + 1e-3


def test_affine_without_options_changes_nothing():
    images = some_images()
    np.testing.assert_array_equal(RandomAffine()(images, generator()), images)


def test_affine_draws_spread_over_their_ranges():
    images = np.zeros((500, 1, 41, 41), np.float64)
    images[:, 0, 20, 20] = 1
    result = RandomAffine(translate=(0.1, 0.2))(images, generator())
    down = (result.sum(axis=(1, 3)) * (np.arange(41) - 20)).sum(1)
    right = (result.sum(axis=(1, 2)) * (np.arange(41) - 20)).sum(1)
    np.testing.assert_allclose([down.min(), down.max()], [-8.2, 8.2], atol=0.3)
    np.testing.assert_allclose([right.min(), right.max()], [-4.1, 4.1], atol=0.15)
    assert abs(np.corrcoef(down, right)[0, 1]) < 0.2


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (lambda: RandomShift(-1), "pixels of 0 or more, got -1"),
        (lambda: RandomHorizontalFlip(1.5), "p from 0 to 1, got 1.5"),
        (lambda: RandomAffine(-5), "degrees of 0 or more, got -5"),
        (lambda: RandomAffine(scale=(1.1, 0.9)), r"got \(1.1, 0.9\)"),
        (lambda: RandomAffine(scale=(0, 1)), r"0 < low <= high, got \(0, 1\)"),
        (lambda: RandomAffine(shear=90), "shear from 0 to below 90 degrees, got 90"),
        (lambda: RandomAffine(translate=(0, 1.5)), r"translate .* got \(0, 1.5\)"),
    ],
)
def test_impossible_options_are_refused(make, fault):
    with pytest.raises(ValueError, match=fault):
        make()
