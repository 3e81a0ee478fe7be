"""Every common kind of pixels is read as what a viewer shows, or refused by name; in bounded memory."""

import os
import struct
import subprocess
import sys

import numpy as np
import pytest
from picture_files import png_file, tiff_file

from xpcnn.data import DataError
from xpcnn.data.formats import pictures
from xpcnn.data.formats.pictures import read_picture

Image = pytest.importorskip("PIL.Image", reason="reading pictures needs Pillow, of the viz extra")

RAMP = np.array([[0, 64, 128, 255], [32, 96, 160, 224]], np.uint8)  # no symmetry: no turn leaves it as it is
ORIENTATION = 274


@pytest.fixture
def save(tmp_path):
    def save(pixels, name="picture.png", mode=None, **options):
        image = Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels
        (image.convert(mode) if mode else image).save(tmp_path / name, **options)
        return tmp_path / name

    return save


def png(path, size, bits, colour, rows, transparent=None):
    path.write_bytes(png_file(size, bits, colour, rows, [(b"tRNS", transparent)] if transparent else []))
    return path


def tiff(path, rows, bits, photometric=1, sample_format=1, width=None):
    """Write an uncompressed grey TIFF."""
    height, width = len(rows), width or rows.shape[1]
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 277: 1, 278: height, 339: sample_format}
    path.write_bytes(tiff_file(rows.tobytes(), tags))
    return path


def grey(path):
    picture, _ = read_picture(path, 1)
    assert picture.mode == "L"
    return np.asarray(picture)


def rgb(path):
    picture, _ = read_picture(path, 3)
    assert picture.mode == "RGB"
    return np.asarray(picture)


def test_sixteen_bits_are_scaled_not_clipped(save, tmp_path):
    values = RAMP.astype(np.uint16) * 257
    (tmp_path / "x.pgm").write_bytes(b"P5 4 2 65535\n" + values.astype(">u2").tobytes())
    for path in (save(values, "x.png"), save(values, "x.tif"), tmp_path / "x.pgm"):
        np.testing.assert_array_equal(grey(path), RAMP)
        np.testing.assert_array_equal(rgb(path), np.dstack([RAMP] * 3))


def test_the_white_of_a_tiff_follows_from_its_bits_and_meaning(tmp_path):
    values = RAMP.astype(np.uint16) * 257
    for rows, photometric, expected in ((values, 1, RAMP), (values, 0, 255 - RAMP)):
        np.testing.assert_array_equal(grey(tiff(tmp_path / "x.tif", rows, 16, photometric)), expected)
    twelve = np.array([[0x00, 0x0F, 0xFF]], np.uint8)  # two pixels: 0 and 4095
    path = tiff(tmp_path / "x.tif", twelve, 12, width=2)
    assert grey(path).tolist() == [[0, 255]]


def test_floats_are_read_from_0_to_1(save, tmp_path):
    floats = RAMP.astype(np.float32) / 255
    np.testing.assert_array_equal(grey(save(floats, "x.tif")), RAMP)
    np.testing.assert_array_equal(grey(tiff(tmp_path / "white_is_zero.tif", floats, 32, 0, 3)), 255 - RAMP)


@pytest.mark.parametrize(
    ("pixels", "bits", "sample_format", "reason"),
    [
        (RAMP.astype(np.float32), 32, 3, "pixels from 0.0 to 255.0, expected 0 to 1"),
        (np.array([[0.5, np.nan]], np.float32), 32, 3, "pixels from nan to nan"),
        (RAMP.astype(np.uint32), 32, 1, "32 bits"),
        (RAMP.astype(np.int16), 16, 2, "signed pixels"),
        (RAMP.astype(np.int8), 8, 2, "signed pixels"),
    ],
)
def test_pixels_of_unknown_range_are_refused(tmp_path, pixels, bits, sample_format, reason):
    path = tiff(tmp_path / "x.tif", pixels, bits, 1, sample_format)
    with pytest.raises(DataError, match=rf"x\.tif: cannot be read as a picture \(.*{reason}"):
        read_picture(path, 1)


def test_colours_that_not_every_pillow_converts_are_refused(save):
    with pytest.raises(DataError, match=r"x\.tif: cannot be read as a picture \(pixels of Pillow's mode LAB"):
        read_picture(save(Image.new("LAB", (2, 2)), "x.tif"), 3)


def test_colours_are_those_that_a_viewer_shows(save, tmp_path):
    primaries = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0]]], np.uint8)
    expected = [[76, 150, 29, 255, 0]]  # ITU-R 601
    for path in (
        save(primaries, "rgb.png"),
        save(primaries, "palette.png", "P"),
        save(primaries, "palette.gif", "P"),
        save(primaries, "cmyk.tif", "CMYK"),
        save(primaries.repeat(16, 0).repeat(16, 1), "cmyk.jpg", "CMYK", quality=100, subsampling=0),
        png(tmp_path / "16.png", (5, 1), 16, 2, b"\0" + primaries.repeat(2, 2).tobytes()),
    ):
        step = 16 if path.suffix == ".jpg" else 1
        near = 2 if step == 16 else 0
        np.testing.assert_allclose(rgb(path)[step // 2 :: step, step // 2 :: step], primaries, atol=near)
        np.testing.assert_allclose(grey(path)[step // 2 :: step, step // 2 :: step], expected, atol=near)
    bits = Image.fromarray(RAMP > 100)
    np.testing.assert_array_equal(grey(save(bits, "bits.png")), (RAMP > 100) * 255)


@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.tif", "x.webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(save, name, orientation):
    # What a camera stores when it is held so that the reader has to undo it.
    stored = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.T,
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a.T, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation](np.kron(RAMP, np.ones((16, 16), np.uint8)))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {} if name.endswith("tif") else {"quality": 100}
    path = save(np.ascontiguousarray(stored), name, "RGB" if name == "x.webp" else None, exif=exif, **options)
    np.testing.assert_allclose(grey(path)[8::16, 8::16], RAMP, atol=3)
    assert read_picture(path, 1)[0].size == (64, 32)
    assert ("turned upright by its EXIF orientation" in read_picture(path, 1)[1]) == (orientation > 1)


def ink_on_nothing(value, mode):
    """A square of ink on a transparent ground of the ink's own colour, which must not show."""
    pixels = np.full((12, 12, 4), value, np.uint8)
    pixels[..., 3] = 0
    pixels[4:8, 4:8, 3] = 255
    image = Image.fromarray(pixels)
    return image if mode == "RGBA" else image.convert("LA")


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize(("ink", "paper"), [(0, 255), (40, 255), (255, 0), (200, 0)])
def test_ink_on_a_transparent_ground_is_seen(save, mode, ink, paper):
    path = save(ink_on_nothing(ink, mode))
    picture, done = read_picture(path, 1)
    assert np.asarray(picture)[6, 6] == ink
    assert np.asarray(picture)[0, 0] == paper
    assert done[1] == ("on white, as its ink is dark" if paper else "on black, as its ink is light")


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_transparent_grey_of_any_bits_is_transparent(tmp_path, bits):
    white = (1 << bits) - 1
    row = np.zeros(2 * bits, np.uint8)
    row[:bits] = 1  # one white pixel, one black pixel
    rows = b"\0" + np.packbits(row).tobytes()
    path = png(tmp_path / "x.png", (2, 1), bits, 0, rows, struct.pack(">H", 0))
    assert grey(path).tolist() == [[255, 0]], "black is transparent, white ink on black"
    path = png(tmp_path / "x.png", (2, 1), bits, 0, rows, struct.pack(">H", white))
    assert grey(path).tolist() == [[255, 0]], "white is transparent, black ink on white"


def test_transparency_of_a_palette_and_of_one_colour(save, tmp_path):
    palette = Image.fromarray(np.array([[0, 0, 1, 0]], np.uint8))
    palette.putpalette([255, 255, 255, 250, 250, 250])
    for name, transparent in (("x.gif", 0), ("x.png", 0), ("x.png", b"\0\xff")):
        picture, done = read_picture(save(palette, name, transparency=transparent), 1)
        assert np.asarray(picture).tolist() == [[0, 0, 250, 0]]
        assert done[1:] == ["on black, as its ink is light"]
    colours = np.array([[[10, 20, 30], [1, 2, 3]]], np.uint8)
    path = save(colours, transparency=(1, 2, 3))
    assert rgb(path).tolist() == [[[10, 20, 30], [255, 255, 255]]]
    path = png(tmp_path / "16.png", (1, 1), 16, 2, bytes(7), bytes(6))
    with pytest.raises(DataError, match="a transparent colour of 16 bits"):
        read_picture(path, 3)


def test_an_alpha_channel_that_hides_nothing_changes_nothing(save):
    pixels = np.dstack([RAMP, RAMP, RAMP, np.full_like(RAMP, 255)])
    picture, done = read_picture(save(pixels), 1)
    np.testing.assert_array_equal(np.asarray(picture), RAMP)
    assert done == ["read 4×2 as grey"]


def test_of_several_pictures_the_first_is_read_and_that_is_said(save):
    frames = [Image.fromarray(np.full((5, 5), value, np.uint8)) for value in (10, 200)]
    for name in ("x.gif", "x.tif"):
        picture, done = read_picture(save(frames[0], name, save_all=True, append_images=frames[1:]), 1)
        assert np.asarray(picture).max() == 10
        assert done == ["read 5×5 as grey, the first of 2 pictures"]


def test_a_large_picture_is_scaled_down_in_strips(save, monkeypatch, rng):
    pixels = rng.integers(0, 256, (37, 50)).astype(np.uint8)
    deep = pixels.astype(np.uint16) * 257
    monkeypatch.setattr(pictures, "KEPT", 37 * 50 // 6)
    monkeypatch.setattr(pictures, "_STRIP", 300)
    expected = Image.fromarray(pixels).reduce(3)
    for array in (pixels, deep):
        np.testing.assert_array_equal(grey(save(array)), np.asarray(expected))
    monkeypatch.setattr(pictures, "LARGEST", 37 * 50 - 1)
    monkeypatch.setattr(pictures, "LONGEST", 70_000)
    with pytest.raises(DataError, match="50×37 pixels take 0 MiB, expected at most"):
        read_picture(save(pixels), 1)


def test_a_long_picture_is_refused(save):
    with pytest.raises(DataError, match="65536×1 pixels take 0 MiB, expected at most 512 MiB and 65,535 pixels a side"):
        read_picture(save(np.zeros((1, 65_536), np.uint8)), 1)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what a process used at most")
def test_a_small_file_of_very_many_pixels_takes_little_memory(tmp_path):
    side = 13_300
    path = png(tmp_path / "bits.png", (side, side), 1, 0, (b"\0" + b"\xff" * (side // 8 + 1)) * side)
    code = """if True:
        import sys
        from xpcnn.data.formats.images import read_image
        read_image(sys.argv[1], (1, 28, 28), drawing=True)
        print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    output = subprocess.run([sys.executable, "-c", code, path], env=environment, capture_output=True, check=True)
    assert int(output.stdout) << 10 < 350 << 20
    path = png(tmp_path / "colours.png", (side, side), 8, 6, b"")
    with pytest.raises(DataError, match="13300×13300 pixels take 674 MiB, expected at most 512 MiB"):
        read_picture(path, 1)


def test_damaged_files_are_refused_in_one_line_with_their_name(save, tmp_path):
    sources = [
        save(np.kron(RAMP, np.ones((9, 9), np.uint8)), name) for name in ("x.png", "x.jpg", "x.gif", "x.bmp", "x.webp")
    ]
    sources += [save(RAMP, "x.tif", compression="tiff_lzw"), save(RAMP.astype(np.float32) / 255, "f.tif")]
    damaged = tmp_path / "damaged"
    messages = []
    for source in sources:
        whole = source.read_bytes()
        for end in range(0, len(whole), max(1, len(whole) // 40)):
            damaged.write_bytes(whole[:end])
            try:
                read_picture(damaged, 1)  # what follows the pixels may be missing
            except DataError as error:
                messages.append(str(error))
    assert len(messages) > 100
    assert all(line.startswith(f"{damaged}: cannot be read as a picture (") for line in messages)
    assert not any("\n" in line for line in messages)


def test_what_is_no_file_of_pixels_is_refused(tmp_path):
    (tmp_path / "program.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
    (tmp_path / "folder").mkdir()
    for name, reason in {
        "absent.png": "no such file",
        "folder": r"cannot be read as a picture \(it is a folder, not a file\)",
        "program.eps": "cannot be read as a picture .*none of BMP, GIF, JPEG",
        "a\0b": "cannot be read as a picture .*null",
    }.items():
        with pytest.raises(DataError, match=reason):
            read_picture(tmp_path / name, 1)
