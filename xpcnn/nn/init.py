"""Initial weights, drawn on the host so that one seed gives the same network on every device.

Each initialiser takes the weight's shape, output channels first as `(O, C, KH, KW)` or `(out, in)`, and a generator.
The fan-in is the number of inputs that one output sees; the fan-out, of outputs that one input feeds.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod, sqrt
from typing import TypeAlias

import numpy as np

from ..backend import HostArray

Initializer: TypeAlias = Callable[[tuple[int, ...], np.random.Generator], HostArray]


def he_normal(shape: tuple[int, ...], rng: np.random.Generator) -> HostArray:
    """Variance `2 / fan_in`, which keeps the scale through ReLU layers (He et al. 2015)."""
    return _normal(shape, rng, 2 / _fans(shape)[0])


def he_uniform(shape: tuple[int, ...], rng: np.random.Generator) -> HostArray:
    """Variance `2 / fan_in`, uniform (He et al. 2015)."""
    return _uniform(shape, rng, 2 / _fans(shape)[0])


def glorot_normal(shape: tuple[int, ...], rng: np.random.Generator) -> HostArray:
    """Variance `2 / (fan_in + fan_out)`, for sigmoid and tanh (Glorot and Bengio 2010)."""
    return _normal(shape, rng, 2 / sum(_fans(shape)))


def glorot_uniform(shape: tuple[int, ...], rng: np.random.Generator) -> HostArray:
    """Variance `2 / (fan_in + fan_out)`, uniform (Glorot and Bengio 2010)."""
    return _uniform(shape, rng, 2 / sum(_fans(shape)))


def lecun_normal(shape: tuple[int, ...], rng: np.random.Generator) -> HostArray:
    """Variance `1 / fan_in` (LeCun et al. 1998)."""
    return _normal(shape, rng, 1 / _fans(shape)[0])


def lecun_uniform(shape: tuple[int, ...], rng: np.random.Generator) -> HostArray:
    """Variance `1 / fan_in`, uniform (LeCun et al. 1998)."""
    return _uniform(shape, rng, 1 / _fans(shape)[0])


def normal(std: float) -> Initializer:
    """Return an initialiser with mean 0 and the given standard deviation."""
    return lambda shape, rng: _normal(shape, rng, std**2)


def _fans(shape: tuple[int, ...]) -> tuple[int, int]:
    if len(shape) < 2:
        raise ValueError(f"a weight to initialise has at least two axes, got {shape}")
    return prod(shape[1:]), shape[0] * prod(shape[2:])


def _normal(shape: tuple[int, ...], rng: np.random.Generator, variance: float) -> HostArray:
    return rng.normal(0, sqrt(variance), shape)


def _uniform(shape: tuple[int, ...], rng: np.random.Generator, variance: float) -> HostArray:
    bound = sqrt(3 * variance)
    return rng.uniform(-bound, bound, shape)
