"""Networks, by function and by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..nn import Sequential
from .lenet import lenet5

MODELS: dict[str, Callable[..., Sequential]] = {"lenet5": lenet5}


def build_model(
    name: str, in_shape: tuple[int, int, int], classes: int, *, seed: int = 0, **options: Any
) -> Sequential:
    """Return a network by name.

    Raises:
        ValueError: if the name is unknown, or the network cannot take such images.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}: expected one of {', '.join(sorted(MODELS))}")
    return MODELS[name](in_shape, classes, seed=seed, **options)


__all__ = ["MODELS", "build_model", "lenet5"]
