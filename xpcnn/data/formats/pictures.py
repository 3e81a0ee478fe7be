"""Decoding picture files of every common kind of pixels to 8-bit grey or RGB; needs Pillow, from the `viz` extra.

Pillow decodes the files. What it leaves to its callers is here: the range of 16-bit and float pixels, transparency,
EXIF orientation, bounds on memory, and one error for whatever a damaged file does to a decoder.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...extras import needed_for
from ..errors import DataError
from ..files import open_file

# The others that Pillow knows are left out: some run programs (EPS), some are not pictures of pixels.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp")
LARGEST = 512 << 20  # bytes of a decoded file
LONGEST = 65_535  # pixels of a side, as in a JPEG
KEPT = 1 << 24  # pixels of the result: a larger picture is scaled down by a whole number
_STRIP = 1 << 20  # pixels converted at once

_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2}  # of a pixel once decoded; 4 in other modes
_SHALLOW = (
    "1",
    "L",
    "LA",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBX",
    "CMYK",
    "YCbCr",
)  # modes that every version of Pillow converts
_DEEP = ("I;16", "I;16B", "I;16L", "I", "F")  # modes that Pillow converts to 8 bits by clipping
_TIFF_BITS, _TIFF_PHOTOMETRIC, _TIFF_SAMPLE_FORMAT = 258, 262, 339
_SIGNED = 2  # a sample format
_EXIF_ORIENTATION = 274
_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
_PNG_BITS, _PNG_COLOUR = 24, 25  # where a PNG file has its bits and kind of colour; 0 is grey, 2 is RGB

# A strip of a picture to its colours, of mode L or RGB, and how opaque each pixel is; None if all are.
_Split = Callable[[Any], tuple[Any, Any]]


def read_picture(path: str | os.PathLike[str], channels: int) -> tuple[Any, list[str]]:
    """Read a picture file as 8-bit grey or RGB, upright.

    Integer pixels are scaled from the range of their bits, float pixels from [0, 1]. Grey, a palette and CMYK (without
    its colour profile) become RGB; RGB becomes grey by ITU-R 601. A transparent ground counts as white paper under dark
    ink, and as black under light ink, whatever colour lies under it.

    Args:
        path: a BMP, GIF, JPEG, PNG, PPM, TIFF or WebP file. Of several pictures in it the first is read.
        channels: 1 for grey, 3 for RGB.

    Returns:
        A Pillow image of mode `L` or `RGB`, and what was done, in words. One of more than `KEPT` pixels is scaled down.

    Raises:
        DataError: if the file is absent, damaged or no picture, takes more than `LARGEST` bytes once decoded, or has
            pixels of an unknown range.
        ImportError: if Pillow is not installed.
    """
    with needed_for("reading pictures"):
        from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings(), open_file(path) as file:
            # Pillow warns of odd metadata, which does no harm, and of large pictures, whose size is checked below.
            warnings.simplefilter("ignore")
            head = file.read(_PNG_COLOUR + 1)
            file.seek(0)
            with Image.open(file, formats=FORMATS) as picture:
                return _decode(picture, head, "L" if channels == 1 else "RGB")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except UnidentifiedImageError:
        raise _refusal(path, f"damaged, of an unknown kind of pixels, or none of {', '.join(FORMATS)}") from None
    except OSError as error:
        raise _refusal(path, error.strerror or error) from error
    except Exception as error:  # given damaged files, Pillow raises anything from KeyError to struct.error
        raise _refusal(path, str(error) or type(error).__name__) from error


def _refusal(path: str | os.PathLike[str], reason: object) -> DataError:
    return DataError(f"{path}: cannot be read as a picture ({reason})")


def _decode(picture: Any, head: bytes, mode: str) -> tuple[Any, list[str]]:
    from PIL import Image

    needed = picture.width * picture.height * _BYTES.get(picture.mode, 4)
    if needed > LARGEST or max(picture.size) > LONGEST:
        limits = f"at most {LARGEST >> 20} MiB and {LONGEST:,} pixels a side"
        raise DataError(f"{picture.width}×{picture.height} pixels take {needed >> 20:,} MiB, expected {limits}")
    frames = 1 if picture.format == "MPO" else getattr(picture, "n_frames", 1)  # MPO: a photograph and its previews
    turn = _TURNS.get(picture.getexif().get(_EXIF_ORIENTATION))
    split = _split_deep(picture) if picture.mode in _DEEP else _split_colours(picture, head)
    read = f"read {picture.width}×{picture.height} as {'grey' if mode == 'L' else 'RGB'}"
    picture.load()
    width, height = picture.size
    factor = math.isqrt((width * height - 1) // KEPT) + 1
    rows = max(1, _STRIP // (width * factor)) * factor

    if rows >= height:  # one strip: nearly every picture
        colours, alpha = split(picture)
        paper, done = _paper(iter([(colours, alpha)]))
        result = _shown(colours, alpha, paper, mode, factor)
    else:

        def strips() -> Iterator[tuple[Any, Any]]:
            for top in range(0, height, rows):
                yield split(picture.crop((0, top, width, min(top + rows, height))))

        paper, done = _paper(strips())
        result = Image.new(mode, (math.ceil(width / factor), math.ceil(height / factor)))
        for i, (colours, alpha) in enumerate(strips()):
            result.paste(_shown(colours, alpha, paper, mode, factor), (0, i * rows // factor))
    if turn is not None:
        if picture.format != "TIFF":  # which Pillow has turned already
            result = result.transpose(Image.Transpose[turn])
        done.append("turned upright by its EXIF orientation")
    return result, [read if frames == 1 else f"{read}, the first of {frames} pictures", *done]


def _split_colours(picture: Any, head: bytes) -> _Split:
    """Return what splits strips of 8-bit grey or colours, with transparency in whatever form."""
    if picture.mode not in _SHALLOW:
        raise DataError(f"pixels of Pillow's mode {picture.mode}, which is not supported")
    if picture.format == "TIFF" and _SIGNED in picture.tag_v2.get(_TIFF_SAMPLE_FORMAT, ()):
        raise DataError("signed pixels, of which it is not known what is white")
    key = picture.info.get("transparency")
    if key is not None and picture.format == "PNG" and picture.mode in ("L", "RGB"):
        # Pillow scales pixels of other than 8 bits to 8, but not the one that is transparent.
        bits = head[_PNG_BITS]
        if bits > 8:
            raise DataError("a transparent colour of 16 bits, which is not supported")
        if picture.mode == "L":
            picture.info["transparency"] = key * 255 // ((1 << bits) - 1)
    if key is None and picture.mode not in ("LA", "PA", "RGBA"):
        grey = picture.mode in ("1", "L")
        return lambda strip: (strip.convert("L" if grey else "RGB"), None)

    def split(strip: Any) -> tuple[Any, Any]:
        rgba = strip.convert("RGBA")
        return rgba.convert("RGB"), rgba.getchannel("A")

    return split


def _split_deep(picture: Any) -> _Split:
    """Return what splits strips of grey pixels of more than 8 bits."""
    from PIL import Image

    tags = getattr(picture, "tag_v2", {})
    if picture.mode == "F":
        white = 1
    elif picture.format == "TIFF":
        (bits, *_) = tags.get(_TIFF_BITS, (1,))
        if bits > 16 or _SIGNED in tags.get(_TIFF_SAMPLE_FORMAT, ()):
            raise DataError(f"signed pixels or {bits} bits each, of which it is not known what is white")
        white = (1 << bits) - 1
    else:  # PNG and PPM
        white = 65_535
    white_is_zero = tags.get(_TIFF_PHOTOMETRIC) == 0
    key = picture.info.get("transparency")

    def split(strip: Any) -> tuple[Any, Any]:
        values: NDArray[Any] = np.asarray(strip)
        if not (values.min() >= 0 and values.max() <= white):  # so written that NaN is refused
            raise DataError(f"pixels from {values.min()} to {values.max()}, expected 0 to {white}")
        alpha = None if key is None else Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8))
        scaled = np.rint(values * (255 / white)).astype(np.uint8)
        return Image.fromarray(255 - scaled if white_is_zero else scaled), alpha

    return split


def _paper(strips: Iterator[tuple[Any, Any]]) -> tuple[int | None, list[str]]:
    """Return the grey value of the ground that makes the ink visible, None if nothing is transparent; and in words."""
    light = opaque = 0
    transparent = False
    for colours, alpha in strips:
        if alpha is None:
            return None, []
        weights = np.asarray(alpha)
        transparent |= bool(weights.min() < 255)
        light += int((np.asarray(colours.convert("L")).astype(np.uint32) * weights).sum())
        opaque += int(weights.sum(dtype=np.uint64))
    if not transparent:
        return None, []
    if light > 127.5 * opaque:
        return 0, ["on black, as its ink is light"]
    return 255, ["on white, as its ink is dark"]


def _shown(colours: Any, alpha: Any, paper: int | None, mode: str, factor: int) -> Any:
    """Return colours on a ground of a grey value, in a mode, scaled down by a factor."""
    from PIL import Image

    if paper is not None:
        colours = Image.composite(colours, Image.new("L", colours.size, paper).convert(colours.mode), alpha)
    if colours.mode != mode:  # else Pillow would copy the pixels
        colours = colours.convert(mode)
    return colours if factor == 1 else colours.reduce(factor)
