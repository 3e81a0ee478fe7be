"""Initial weights, drawn on the host so that one seed gives the same network on every device.

An initialiser is a function of the weight's shape, output channels first as `(O, C, KH, KW)` or `(out, in)`, and of a
NumPy generator. It returns a float64 array of that shape, of mean 0, and raises ValueError if the shape has fewer than
two axes. The fan-in is the number of inputs that one output depends on, C·KH·KW; the fan-out is the number of outputs
that depend on one input, O·KH·KW.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod, sqrt
from typing import TypeAlias

import numpy as np

from ..backend import HostArray

Initializer: TypeAlias = Callable[[tuple[int, ...], np.random.Generator], HostArray]


def he_normal(shape: tuple[int, ...], rng: np.random.Generator) -> HostArray:
    """Return normal weights of variance `2 / fan_in`, which keeps the scale through ReLU layers (He et al. 2015)."""
    return _normal(shape, rng, 2 / _fans(shape)[0])


def he_uniform(shape: tuple[int, ...], rng: np.random.Generator) -> HostArray:
    """Return uniform weights of variance `2 / fan_in` (He et al. 2015)."""
    return _uniform(shape, rng, 2 / _fans(shape)[0])


def he_normal_fan_out(shape: tuple[int, ...], rng: np.random.Generator) -> HostArray:
    """Return normal weights of variance `2 / fan_out`, which keeps the scale of gradients through ReLU layers."""
    return _normal(shape, rng, 2 / _fans(shape)[1])


def glorot_normal(shape: tuple[int, ...], rng: np.random.Generator) -> HostArray:
    """Return normal weights of variance `2 / (fan_in + fan_out)`, for sigmoid and tanh (Glorot and Bengio 2010)."""
    return _normal(shape, rng, 2 / sum(_fans(shape)))


def glorot_uniform(shape: tuple[int, ...], rng: np.random.Generator) -> HostArray:
    """Return uniform weights of variance `2 / (fan_in + fan_out)` (Glorot and Bengio 2010)."""
    return _uniform(shape, rng, 2 / sum(_fans(shape)))


def lecun_normal(shape: tuple[int, ...], rng: np.random.Generator) -> HostArray:
    """Return normal weights of variance `1 / fan_in` (LeCun et al. 1998)."""
    return _normal(shape, rng, 1 / _fans(shape)[0])


def lecun_uniform(shape: tuple[int, ...], rng: np.random.Generator) -> HostArray:
    """Return uniform weights of variance `1 / fan_in` (LeCun et al. 1998)."""
    return _uniform(shape, rng, 1 / _fans(shape)[0])


def normal(std: float) -> Initializer:
    """Return an initialiser that draws normal weights.

    Args:
        std: their standard deviation.
    """
    return lambda shape, rng: _normal(shape, rng, std**2)


def _fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the fan-in and the fan-out."""
    if len(shape) < 2:
        raise ValueError(f"a weight must have at least two axes to be initialised, got {shape}")
    return prod(shape[1:]), shape[0] * prod(shape[2:])


def _normal(shape: tuple[int, ...], rng: np.random.Generator, variance: float) -> HostArray:
    return rng.normal(0, sqrt(variance), shape)


def _uniform(shape: tuple[int, ...], rng: np.random.Generator, variance: float) -> HostArray:
    bound = sqrt(3 * variance)
    return rng.uniform(-bound, bound, shape)
