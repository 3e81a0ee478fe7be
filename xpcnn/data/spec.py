"""What a network must know of the data it is trained on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any, Literal

import numpy as np

Pixels = Literal["uint8", "float"]
_KEYS = "shape, classes, mean, std, pixels and drawing"


@dataclass(frozen=True)
class DataSpec:
    """What a network must know of its data: with it and the weights, new images can be classified.

    Attributes:
        shape: `(C, H, W)` of an image.
        classes: the names of the classes, in the order of the network's outputs.
        mean: of each channel, subtracted; pixels of bytes are divided by 255 before.
        std: of each channel, by which it is divided afterwards.
        pixels: `"uint8"`: from 0 to 255, divided by 255; `"float"`: taken as they are.
        drawing: whether the images are light figures, centred on a dark background.

    Raises:
        ValueError: if a value is outside its range.
    """

    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pixels: Pixels = "uint8"
    drawing: bool = False

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ValueError(f"expected a shape (C, H, W), got {self.shape}")
        if not self.classes or len({*self.classes}) < len(self.classes):
            raise ValueError(f"expected classes, each once, got {', '.join(self.classes)[:80] or 'none'}")
        if self.pixels not in ("uint8", "float"):
            raise ValueError(f'expected pixels "uint8" or "float", got {self.pixels!r:.40}')
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.shape[0] or not all(isfinite(value) for value in values):
                raise ValueError(f"expected {self.shape[0]} finite values of {name}, got {values!r:.80}")
        if not all(value > 0 for value in self.std):
            raise ValueError(f"expected positive values of std, got {self.std!r:.80}")

    @property
    def white(self) -> int:
        """By which pixels are divided before the mean is subtracted."""
        return 255 if self.pixels == "uint8" else 1

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes as values that JSON can represent."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> DataSpec:
        """Return what `to_dict` made a dictionary of.

        Raises:
            ValueError: if it is something else.
        """
        try:
            shape = tuple(_integer(size) for size in values["shape"])
            mean, std = (tuple(float(value) for value in values[name]) for name in ("mean", "std"))
            classes, drawing = tuple(values["classes"]), values["drawing"]
            if not all(isinstance(name, str) for name in classes) or not isinstance(drawing, bool):
                raise ValueError("a class is no text, or drawing neither true nor false")
            if len(values) != 6:
                raise ValueError("there are more")
            return cls(shape, classes, mean, std, values["pixels"], drawing)  # type: ignore[arg-type]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"expected {_KEYS} of the data, got {values!r:.80} ({error})") from error

    def checked(self, images: Any) -> Any:
        """Return images as `(N, C, H, W)`, after checking that they are of this kind.

        Args:
            images: `(N, C, H, W)`, or `(N, H, W)` if C is 1, of any device.

        Raises:
            ValueError: if their shape or kind of pixels is another one.
        """
        if images.ndim == 3:
            images = images[:, None]
        kind = pixels_of(images.dtype)
        if images.ndim != 4 or images.shape[1:] != self.shape or kind != self.pixels:
            expected = f"expected images (N, C, H, W) = (N, {', '.join(map(str, self.shape))}) of {self.pixels}"
            raise ValueError(f"{expected}, as in training, got {images.shape} {images.dtype}")
        return images

    def differences(self, other: DataSpec) -> str:
        """Return which attributes differ from those of another, for a message; "" if none."""
        found = []
        for name, value in self.to_dict().items():
            there = getattr(other, name)
            if value != there:
                found.append(f"{name} ({_short(value)}, there {_short(there)})")
        return ", ".join(found)


def pixels_of(dtype: np.dtype[Any]) -> str:
    """Return the kind of pixels of a data type, or its name if it is none."""
    return "float" if dtype.kind == "f" else dtype.name


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{value!r:.40} is no whole number")
    return value


def _short(value: Any) -> str:
    text = (
        ", ".join(f"{x:.6g}" if isinstance(x, float) else str(x) for x in value) if type(value) is tuple else str(value)
    )
    return text if len(text) <= 60 else text[:57] + "..."
