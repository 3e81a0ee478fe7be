"""Pictures from disk become what the network was trained on."""

import numpy as np
import pytest

from xpcnn.data import DataError, load_dataset
from xpcnn.data.formats.images import read_image

Image = pytest.importorskip("PIL.Image", reason="reading pictures needs Pillow, of the viz extra")


def save(tmp_path, pixels, name="picture.png", **options):
    Image.fromarray(pixels).save(tmp_path / name, **options)
    return tmp_path / name


def test_a_picture_of_the_right_kind_is_left_alone(tmp_path, rng):
    digit = load_dataset("mnist-mini", "test").images[0]
    image, done = read_image(save(tmp_path, digit[0]), (1, 28, 28), drawing=True)
    np.testing.assert_array_equal(image, digit)
    assert done == ["read 28×28 as grey"]
    photo = rng.integers(0, 256, (32, 32, 3)).astype(np.uint8)
    image, done = read_image(save(tmp_path, photo), (3, 32, 32), drawing=False)
    np.testing.assert_array_equal(image, photo.transpose(2, 0, 1))
    assert done == ["read 32×32 as RGB"]


def test_a_drawing_on_paper_is_inverted_and_centred_as_mnist_is(tmp_path):
    for digit in load_dataset("mnist-mini", "test").images[:10, 0]:
        page = np.full((180, 250), 255, np.uint8)
        page[30 : 30 + 140, 90 : 90 + 140] = 255 - np.kron(digit, np.ones((5, 5), np.uint8))
        image, done = read_image(save(tmp_path, page), (1, 28, 28), drawing=True)
        assert done[1].startswith("inverted")
        assert done[2].endswith("centred in 28×28")
        # MNIST's own digits are 20 pixels high or wide and centred by mass, so they come back nearly as they were.
        assert np.corrcoef(image.ravel(), digit.ravel())[0, 1] > 0.85


def test_a_photograph_keeps_its_proportions(tmp_path):
    photo = np.zeros((64, 128, 3), np.uint8)
    photo[:, 32:96, 0] = 255  # the middle square, which is what stays
    image, done = read_image(save(tmp_path, photo), (3, 32, 32), drawing=False)
    assert done[1] == "scaled and cropped to 32×32"
    assert image.shape == (3, 32, 32)
    assert image[0, :, 2:-2].min() > 250
    assert image[1:].max() == 0


def test_ink_on_a_transparent_ground_becomes_a_light_figure(tmp_path):
    pixels = np.zeros((28, 28, 4), np.uint8)
    pixels[10:18, 10:18, 3] = 255  # an opaque black square; all else is transparent black
    for ink in (0, 255):
        pixels[..., :3] = ink
        image, done = read_image(save(tmp_path, pixels), (1, 28, 28), drawing=True)
        assert ("inverted, as its ground is light" in done) == (ink == 0)
        assert image[0, 14, 14] == 255
        assert image[0, 0, 0] == 0


def test_a_blank_page_is_no_error(tmp_path):
    image, _ = read_image(save(tmp_path, np.full((50, 60), 255, np.uint8)), (1, 28, 28), drawing=True)
    assert image.shape == (1, 28, 28)
    assert image.max() == 0


def test_extreme_proportions_take_no_memory_and_no_ink_is_no_error(tmp_path):
    line = np.full((1, 60_000, 3), 7, np.uint8)
    image, _ = read_image(save(tmp_path, line), (3, 32, 32), drawing=False)  # scaled as a whole: 180 MB
    assert (image == 7).all()
    specks = np.zeros((3000, 3000), np.uint8)
    specks[0, 0] = specks[-1, -1] = 255
    image, _ = read_image(save(tmp_path, specks), (1, 28, 28), drawing=True)
    assert image.shape == (1, 28, 28)


def test_what_is_no_picture_is_refused(tmp_path):
    (tmp_path / "text.png").write_text("not a picture")
    whole = save(tmp_path, np.arange(10000, dtype=np.uint8).reshape(100, 100), "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    for name, reason in {
        "absent.png": "no such file",
        "text.png": "cannot be read",
        "cut.png": "cannot be read",
    }.items():
        with pytest.raises(DataError, match=f"{name}: {reason}"):
            read_image(tmp_path / name, (1, 28, 28), drawing=True)
