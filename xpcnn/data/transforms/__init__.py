"""Data augmentation: random changes to training images that keep their labels true.

A transform is any callable `transform(images, generator) -> images` over a batch `(N, C, H, W)`, uint8 or float. Those
here keep shape and data type, and change each image in its own way. They run on the device of the images: the few
random numbers of an image are drawn on the host from the generator alone, and the pixels of uint8 images are computed
with integers. So the bits are the same on every device; those of float images agree within rounding.

`make_transform("flip,crop", (3, 32, 32))` chooses transforms by name, with options that suit the size of the images.
"""

from .affine import RandomAffine
from .base import Compose, Part, Transform, on_any_device, on_any_part, transform_at
from .colour import ColorJitter
from .crop import AlternatingFlip, Cutout, RandomHorizontalFlip, RandomShift
from .names import AUGMENTATIONS, chosen_augmentations, make_transform

__all__ = [
    "AUGMENTATIONS",
    "AlternatingFlip",
    "ColorJitter",
    "Compose",
    "Cutout",
    "Part",
    "RandomAffine",
    "RandomHorizontalFlip",
    "RandomShift",
    "Transform",
    "chosen_augmentations",
    "make_transform",
    "on_any_device",
    "on_any_part",
    "transform_at",
]
