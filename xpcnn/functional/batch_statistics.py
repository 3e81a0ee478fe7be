"""The statistics of batch normalisation: of a whole batch, or of the parts of it that a group of processes has.

If the values are far from 0, the rounding error of the mean may exceed their standard deviation. Subtracting it from
values near it is exact, so the error is the mean of the centred values: the residual, which is subtracted as well.
Where a group shares the batch, the values are centred by their own part's mean, and the residual is the rest.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import Array, array_namespace, chain, device_of
from ..distributed import Group


@chain
def centre(x: Array, sums: Array, count: int, centred: Array) -> None:
    """Subtract the rounded mean."""
    array_namespace(x).subtract(x, sums / count, out=centred)


@chain
def write_statistics(sums: Array, residual_sums: Array, squares: Array, count: int, eps: float, *operands: Any) -> None:
    """Write all of them, of a whole batch."""
    weight, bias, residual, variance, mean, *others = operands
    _write_moments(sums, residual_sums, squares, count, mean, residual, variance)
    mean[...] = sums / count + residual
    _write_factors(variance, residual, eps, weight, bias, *others)


@chain
def write_part(sums: Array, residual_sums: Array, squares: Array, count: int, *results: Array) -> None:
    """Write rounded mean, residual and variance of a part of a batch."""
    _write_moments(sums, residual_sums, squares, count, *results)


@chain
def write_factors(variance: Array, residual: Array, eps: float, *operands: Any) -> None:
    """Write 1 / standard deviation, and what centred values are multiplied by and shifted by."""
    _write_factors(variance, residual, eps, *operands)


def _write_moments(sums: Array, residual_sums: Array, squares: Array, count: int, *results: Array) -> None:
    rounded, residual, variance = results
    rounded[...] = sums / count
    residual[...] = residual_sums / count
    array_namespace(sums).maximum(squares / count - residual * residual, 0, out=variance)


def _write_factors(variance: Array, residual: Array, eps: float, *operands: Any) -> None:
    weight, bias, scale, factor, shift = operands
    scale[...] = 1 / array_namespace(variance).sqrt(variance + eps)
    factor[...] = scale if weight is None else scale * weight
    shift[...] = -residual * factor if bias is None else bias - residual * factor


def values_of_processes(x: Array, group: Group) -> tuple[int, ...]:
    """Return how many values each channel has, on each process of the group."""
    values = x.size // max(1, x.shape[1])
    if group.size == 1:
        return (values,)
    of_sample = values // group.rows
    return tuple(of_sample * samples for samples in group.counts)


def statistics_of_group(moments: Array, counts: tuple[int, ...], group: Group) -> tuple[Array, Array, Array]:
    """Return mean and variance over all parts of a batch (Chan, Golub and LeVeque 1983), and this part's residual.

    Args:
        moments: `(3, C, 1)`: of this part, the rounded mean, the mean of what remained after it was subtracted, and the
            variance.
        counts: how many values each part has.
    """
    device = device_of(moments)
    gathered = group.gather(moments)
    rounded, residuals, variances = (gathered[:, i] for i in range(3))  # (size, C, 1) each
    weights = device.asarray(np.array(counts) / sum(counts), moments.dtype)[:, None, None]
    offsets = rounded - rounded[0] + residuals  # of the parts' means from the first rounded one
    offset = (weights * offsets).sum(axis=0)
    variance = (weights * (variances + (offsets - offset) ** 2)).sum(axis=0)
    return rounded[0] + offset, variance, offset - (moments[0] - rounded[0])
