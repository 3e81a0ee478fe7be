"""Transforms by name, with options that suit the size of the images."""

from collections.abc import Callable, Sequence

from .affine import RandomAffine
from .base import Compose, Transform
from .colour import ColorJitter
from .crop import AlternatingFlip, Cutout, RandomHorizontalFlip, RandomShift

# In the order in which they are applied, given the shorter side of the images.
AUGMENTATIONS: dict[str, Callable[[int], Transform]] = {
    "alternating-flip": lambda side: AlternatingFlip(),
    "reflected-crop": lambda side: RandomShift(side // 16, "reflect"),
    "flip": lambda side: RandomHorizontalFlip(),
    "crop": lambda side: RandomShift(max(1, side // 8)),
    "affine": lambda side: RandomAffine(degrees=10, scale=(0.9, 1.1), translate=(0.07, 0.07)),
    "colour": lambda side: ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4),
    "cutout": lambda side: Cutout(max(1, 3 * side // 8), fill="mean"),
}


def chosen_augmentations(names: str | Sequence[str]) -> tuple[str, ...]:
    """Return the names of transforms in the order in which they are applied; see `make_transform`."""
    parts = [part.strip() for part in (names.split(",") if isinstance(names, str) else names)]
    chosen = [] if parts == ["none"] else parts
    if len(set(chosen)) < len(chosen) or not AUGMENTATIONS.keys() >= set(chosen):
        known = ", ".join(AUGMENTATIONS)
        raise ValueError(f"augmentation: got {names!r:.80}, expected none, or some of {known}, each once")
    return tuple(name for name in AUGMENTATIONS if name in chosen)


def make_transform(names: str | Sequence[str], shape: tuple[int, int, int]) -> Transform | None:
    """Return the transforms of some names, composed, or None for none.

    `alternating-flip` mirrors each image left to right in every other epoch; `reflected-crop` shifts by up to a
    sixteenth of the shorter side, with reflection; `flip` mirrors half of the images left to right; `crop` shifts by up
    to an eighth of the shorter side; `affine` rotates by up to 10 degrees, scales by up to a tenth and shifts by up to
    7 %; `colour` changes brightness, contrast and saturation by up to 40 % (saturation does nothing to images with one
    channel); `cutout` covers a square of three eighths of the shorter side with the image's mean. They are applied in
    this order, whatever the order of the names.

    Args:
        names: one or several of these names, joined by commas or as a sequence; `"none"` or an empty sequence for none.
        shape: `(C, H, W)` of an image.

    Raises:
        ValueError: if a name is unknown or comes twice.
    """
    _, *sides = shape
    transforms = [AUGMENTATIONS[name](min(sides)) for name in chosen_augmentations(names)]
    return Compose(transforms) if transforms else None
