"""Augmentation against slow loops and exact cases, one option at a time, and the same numbers on every device."""

import numpy as np
import pytest
from strict_xp import DEVICE, count_operations, forbid_host_reads

from xpcnn.backend import device_of, to_host
from xpcnn.data import (
    AlternatingFlip,
    ColorJitter,
    Compose,
    Cutout,
    Dataset,
    Loader,
    RandomAffine,
    RandomHorizontalFlip,
    RandomShift,
    make_transform,
)
from xpcnn.data.transforms import on_any_device


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

    def integers(self, low, high, size):
        return np.full(size, low + np.floor(self.point * (np.asarray(high) - 1 - low)).astype(int))


def moved(images, down, right):
    """The images moved by whole pixels, the slow and obvious way."""
    result = np.zeros_like(images)
    H, W = images.shape[2:]
    for i in range(H):
        for j in range(W):
            if 0 <= i - down < H and 0 <= j - right < W:
                result[..., i, j] = images[..., i - down, j - right]
    return result


TRANSFORMS = [
    RandomShift(2),
    RandomHorizontalFlip(0.5),
    RandomAffine(10, (0.8, 1.2), 10, (0.1, 0.2)),
    ColorJitter(0.5, 0.4, 0.7),
    Cutout(3),
    Cutout(4, fill="mean"),
    Compose([RandomShift(1), RandomHorizontalFlip()]),
]
every_transform = pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda transform: type(transform).__name__)


@every_transform
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_every_device_computes_the_same(transform, dtype, channels, device):
    images = some_images(30, channels, dtype=dtype)
    expected = transform(images, generator())
    with forbid_host_reads():
        changed = transform(device.asarray(images), generator())
    assert device_of(changed) is device
    assert changed.dtype == dtype
    if dtype == np.uint8:
        np.testing.assert_array_equal(to_host(changed), expected)
    else:
        np.testing.assert_allclose(to_host(changed), expected, atol=2000 * np.finfo(dtype).eps)


@every_transform
def test_work_on_a_gpu_does_not_grow_with_the_batch(transform):
    counts = []
    for N in (8, 80):
        images = DEVICE.asarray(some_images(N, 3))
        with count_operations() as operations:
            transform(images, generator())
        counts.append(operations.count)
    assert counts[0] == counts[1] <= 20


@every_transform
@pytest.mark.parametrize("shape", [(2, 1, 1, 1), (3, 3, 1, 9), (1, 4, 9, 1)])
def test_every_transform_takes_images_of_any_size(transform, shape, device):
    images = np.full(shape, 100, np.uint8)
    result = transform(device.asarray(images), generator())
    assert (result.shape, result.dtype) == (shape, np.uint8)


@every_transform
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


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_shift_reflects_what_is_outside(dtype, device):
    images = some_images(dtype=dtype)
    padded = np.pad(images, ((0, 0), (0, 0), (2, 2), (2, 2)), mode="reflect")
    H, W = images.shape[2:]
    windows = {(i, j): padded[..., i : i + H, j : j + W] for i in range(5) for j in range(5)}
    with forbid_host_reads():
        shifted = RandomShift(2, "reflect")(device.asarray(images), generator())
    seen = set()
    for n, image in enumerate(to_host(shifted)):
        seen |= {place for place, window in windows.items() if np.array_equal(image, window[n])}
    assert seen == set(windows)
    with pytest.raises(ValueError, match=r"below the image's 7×6 pixels to reflect, got 6"):
        RandomShift(6, "reflect")(images, generator())


def flips_of(loader, epoch):
    """Whether each image of a data set was mirrored in an epoch, and nothing else, by its place there."""
    images, found = loader.dataset.images, np.zeros(len(loader.dataset), bool)
    for (batch, _), rows in zip(loader.epoch(epoch), loader.indices(epoch), strict=True):
        plain = np.isclose(to_host(batch), images[rows]).all(axis=(1, 2, 3))
        mirrored = np.isclose(to_host(batch), images[rows][..., ::-1]).all(axis=(1, 2, 3))
        assert (plain ^ mirrored).all()
        found[rows] = mirrored
    return found


def test_alternating_flips_show_each_image_from_both_sides_in_two_epochs(device):
    images = np.random.default_rng(0).random((1000, 1, 2, 3), np.float32)
    data = Dataset(images, np.arange(1000) % 10)
    options = {"shuffle": True, "mean": [0.0], "std": [1.0], "transform": Compose([AlternatingFlip(), RandomShift(0)])}
    loader = Loader(data, 64, device=device, **options)
    first, second, third = (flips_of(loader, epoch) for epoch in range(3))
    assert 0.45 < first.mean() < 0.55
    np.testing.assert_array_equal(second, ~first)
    np.testing.assert_array_equal(third, first)
    np.testing.assert_array_equal(flips_of(Loader(data, 7, **options), 0), first)  # on every device, in any batch
    other = flips_of(Loader(data, 64, seed=1, **options), 0)
    assert 0.4 < (other == first).mean() < 0.6
    with pytest.raises(TypeError, match="use it in a Loader"):
        AlternatingFlip()(images, generator())


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
    # Of bytes, the places that are read are rounded to 1/256 of a pixel, and the value to a byte.
    rounded = RandomAffine(**options)(images.astype(np.uint8), Extreme(point))
    assert np.abs(rounded - result).max() <= 0.5 + 2 * 255 / 512


@pytest.mark.parametrize("options", [{"scale": (0.25, 0.25)}, {"scale": (4, 4)}, {"translate": (0.25, 0.125)}], ids=str)
def test_affine_of_bytes_is_rounded_once_where_no_place_is_rounded(options):
    images = some_images(3, 2, 9, 10)
    result, exact = (RandomAffine(**options)(x, Extreme(1)) for x in (images, images.astype(np.float64)))
    np.testing.assert_array_equal(result, np.floor(exact + 0.5))
    assert len(np.unique(result)) > 10


def test_affine_shows_nothing_of_what_is_far_outside(device):
    for dtype in (np.uint8, np.float32):
        images = device.asarray(some_images(3, dtype=dtype))
        assert not to_host(RandomAffine(scale=(1e-9, 1e-9), shear=89.999)(images, generator())).any()


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


def jittered(image, brightness, contrast, saturation):
    """One image (C, H, W) after the three changes, one after the other, in float64."""
    weights = [0.299, 0.587, 0.114] if len(image) == 3 else [1 / len(image)] * len(image)

    def grey(pixels):
        return sum(weight * channel for weight, channel in zip(weights, pixels, strict=True))

    image = image.astype(np.float64) * brightness
    image = grey(image).mean() + (image - grey(image).mean()) * contrast
    return grey(image) + (image - grey(image)) * saturation


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("point", [0, 0.2, 1])
@pytest.mark.parametrize("options", [(0.6, 0, 0), (0, 0.7, 0), (0, 0, 0.9), (0.5, 0.4, 1), (1, 1, 1)], ids=str)
def test_colour_agrees_with_the_three_changes_in_turn(options, point, channels):
    images = some_images(3, channels, dtype=np.float64)
    transform = ColorJitter(*options)
    expected = np.array([jittered(image, *(1 + (2 * point - 1) * np.array(options))) for image in images])
    np.testing.assert_allclose(transform(images, Extreme(point)), expected, atol=1e-10)
    # Of bytes, the result is rounded and clipped.
    changed = transform(images.astype(np.uint8), Extreme(point))
    assert np.abs(changed - expected.clip(0, 255)).max() <= 0.6


def test_colour_draws_each_change_for_each_image_and_saturation_needs_colours():
    images = some_images(100, 3, 2, 2)
    one = np.repeat(images[:1], 100, axis=0)
    for options in ({"brightness": 0.5}, {"contrast": 0.5}, {"saturation": 0.5}):
        assert len(np.unique(ColorJitter(**options)(one, generator()), axis=0)) > 20
    np.testing.assert_array_equal(ColorJitter(saturation=1)(images[:, :1], generator()), images[:, :1])
    np.testing.assert_array_equal(ColorJitter()(images, generator()), images)
    flat = np.repeat(images[:, :1], 3, axis=1)  # grey pixels stay grey
    flat = ColorJitter(0.5, 0.5, 0.5)(flat, generator())
    assert (flat == flat[:, :1]).all()


@pytest.mark.parametrize("fill", [0, 7, "mean"])
@pytest.mark.parametrize("size", [1, 2, 3, 20])
def test_cutout_covers_one_square_centred_in_the_image(size, fill):
    images = some_images(300, 2)
    H, W = images.shape[2:]
    centres = set()
    for image, result in zip(images, Cutout(size, fill)(images, generator()), strict=True):
        matches = []
        for i in range(H):
            for j in range(W):
                top, left = i - size // 2, j - size // 2
                expected = image.copy()
                value = np.floor(image.mean((1, 2)) + 0.5)[:, None, None] if fill == "mean" else fill
                expected[:, max(top, 0) : top + size, max(left, 0) : left + size] = value
                if np.array_equal(expected, result):
                    matches.append((i, j))
        assert matches
        centres.update(matches[:1])
    assert len(centres) == (1 if size == 20 else H * W)
    floats = images.astype(np.float64)
    np.testing.assert_allclose(
        Cutout(size, fill)(floats, generator()), Cutout(size, fill)(images, generator()), atol=0.5
    )


@pytest.mark.parametrize("fill", [-1, 256, 0.5])
def test_cutout_of_bytes_is_filled_with_a_byte(fill):
    with pytest.raises(ValueError, match="a whole number from 0 to 255, got"):
        Cutout(2, fill)(some_images(1), generator())
    assert (Cutout(2, fill)(some_images(1, dtype=np.float32), generator()) == fill).any()


def test_a_composition_runs_on_any_device_if_all_its_parts_do():
    def users(images, _):
        return images

    flip = RandomHorizontalFlip()
    assert on_any_device(Compose([flip, Compose([Cutout(3)])]))
    assert not on_any_device(users)
    assert not on_any_device(Compose([flip, users]))


NAMES = {
    "flip": RandomHorizontalFlip,
    "crop": RandomShift,
    "affine": RandomAffine,
    "colour": ColorJitter,
    "cutout": Cutout,
}


def test_transforms_by_name():
    for name, kind in NAMES.items():
        (transform,) = make_transform(name, (3, 32, 32)).transforms
        assert type(transform) is kind
        images = some_images(20, 3, 32, 32)
        assert not np.array_equal(transform(images, generator()), images)
    for names in ("cutout, colour,affine ,crop,flip", list(NAMES), (*NAMES,)[::-1]):
        assert [type(transform) for transform in make_transform(names, (1, 8, 8)).transforms] == list(NAMES.values())
    assert (
        make_transform("none", (1, 8, 8))
        is make_transform([], (1, 8, 8))
        is make_transform(["none"], (1, 8, 8))
        is None
    )


def test_named_transforms_suit_the_size_of_the_images():
    for (H, W), pixels, size in (((32, 32), 4, 12), ((64, 96), 8, 24), ((1, 1), 1, 1)):
        crop, cutout = make_transform("crop,cutout", (3, H, W)).transforms
        assert (crop.pixels, cutout.size) == (pixels, size)


@pytest.mark.parametrize("names", ["flop", "flip,flip", "flip,none", "", ["flip", "crop,cutout"]])
def test_unknown_names_are_refused(names):
    with pytest.raises(ValueError, match=r"got .*expected none.*flip, crop, affine, colour, cutout"):
        make_transform(names, (3, 32, 32))


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (lambda: RandomShift(-1), "pixels of 0 or more, got -1"),
        (lambda: RandomShift(1, "edge"), '"constant" or "reflect", got \'edge\''),
        (lambda: RandomHorizontalFlip(1.5), "p from 0 to 1, got 1.5"),
        (lambda: ColorJitter(brightness=-0.1), "brightness from 0 to 1, got -0.1"),
        (lambda: ColorJitter(contrast=1.1), "contrast from 0 to 1, got 1.1"),
        (lambda: ColorJitter(saturation=float("nan")), "saturation from 0 to 1, got nan"),
        (lambda: Cutout(0), "size of 1 or more, got 0"),
        (lambda: Cutout(3, "median"), "a number or \"mean\", got 'median'"),
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
