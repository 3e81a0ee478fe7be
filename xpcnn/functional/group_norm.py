"""Group and layer normalisation: groups of each image's values to mean 0 and variance 1, independent of the batch.

In the batch-last layout both work on `(A, K, N)`: A groups of K values each, for N images.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt, prod
from typing import Any, NamedTuple

from ..backend import Array, Shape, batch_first, batch_last, device_of
from .batch_norm import check_parameters
from .checks import check_gradient, check_input


class _Cache(NamedTuple):
    normalized: Array  # (A, K, N): the output without weight and bias
    scale: Array  # (A, 1, N): 1 / standard deviation
    weight: Array | None
    bias_shape: Shape | None
    affine: Affine
    shape: Shape  # of the input, (..., N)


class Affine(NamedTuple):
    """How the weight and bias are broadcast over the values."""

    values: Shape  # three axes to which the values are reshaped
    weight: Shape  # the same axes of the weight, of length 1 where it is broadcast
    broadcast: tuple[int, ...]  # which axes these are


def group_norm_forward(
    x: Array, groups: int, weight: Array | None = None, bias: Array | None = None, *, eps: float = 1e-5
) -> tuple[Array, Any]:
    """Return `(x - mean) / √(variance + eps) · weight + bias`, per group of channels and image (Wu and He 2018).

    Args:
        x: `(N, C, ...)`.
        groups: into how many equal groups the channels are split.
        weight, bias: `(C,)`, of the same dtype as `x`, or None.
        eps: added to the variance, so that constant values are not divided by 0.

    Returns:
        `y` in the shape of `x`, and what `group_norm_backward` needs.

    Raises:
        ValueError: if shapes or dtypes do not fit, or the groups do not divide the channels.
    """
    check_input("group_norm_forward", x, "(N, C, ...)", float16=False)
    if x.ndim < 2 or groups < 1 or x.shape[1] % groups or 0 in x.shape[1:]:
        raise ValueError(f"expected input (N, C, ...) with channels that {groups} groups divide, got {x.shape}")
    N, C = x.shape[:2]
    check_parameters("group_norm_forward", x, x.shape[1:2], weight=weight, bias=bias)
    affine = Affine((C, prod(x.shape[2:]), N), (C, 1, 1), (1, 2))
    return _forward(x, (groups, prod(x.shape[1:]) // groups, N), weight, bias, affine, eps)


def layer_norm_forward(
    x: Array,
    normalized_shape: Sequence[int],
    weight: Array | None = None,
    bias: Array | None = None,
    *,
    eps: float = 1e-5,
) -> tuple[Array, Any]:
    """Return `(x - mean) / √(variance + eps) · weight + bias`, over each sample's last axes (Ba et al. 2016).

    Args:
        x: `(N, ..., *normalized_shape)`.
        normalized_shape: the lengths of those axes, without the batch's.
        weight, bias: of shape `normalized_shape` and the dtype of `x`, or None.
        eps: added to the variance, so that constant values are not divided by 0.

    Returns:
        `y` in the shape of `x`, and what `layer_norm_backward` needs.

    Raises:
        ValueError: if shapes or dtypes do not fit.
    """
    check_input("layer_norm_forward", x, float16=False)
    shape = tuple(normalized_shape)
    if not shape or 0 in shape or x.ndim <= len(shape) or x.shape[-len(shape) :] != shape:
        raise ValueError(f"expected input (N, ..., {', '.join(map(str, shape))}), got {x.shape}")
    N, A, K = x.shape[0], prod(x.shape[1 : x.ndim - len(shape)]), prod(shape)
    check_parameters("layer_norm_forward", x, shape, weight=weight, bias=bias)
    return _forward(x, (A, K, N), weight, bias, Affine((A, K, N), (1, K, 1), (0, 2)), eps)


def group_norm_backward(
    dy: Array, cache: Any, *, input_gradient: bool = True
) -> tuple[Array | None, Array | None, Array | None]:
    """Return the gradients w.r.t. the input, weight and bias of `group_norm_forward` or `layer_norm_forward`.

    Args:
        dy: gradient w.r.t. the output, in the shape of `x`.
        cache: what the forward call returned.
        input_gradient: False to skip the gradient w.r.t. the input.

    Returns:
        `dx`, `dweight` and `dbias`, each None if it was not asked for or there was no such argument.
    """
    normalized, scale, weight, bias_shape, affine, shape = cache
    dy = check_gradient("group_norm_backward", dy, shape, normalized.dtype)
    dweight = dbias = dx = None
    dy_values = dy.reshape(affine.values)
    if bias_shape is not None:
        dbias = dy_values.sum(axis=affine.broadcast).reshape(bias_shape)
    if weight is not None:
        dweight = (dy_values * normalized.reshape(affine.values)).sum(axis=affine.broadcast).reshape(weight.shape)
        dy = dy_values * weight.reshape(affine.weight)
    if input_gradient:
        dy = dy.reshape(normalized.shape)
        dx = dy - _mean(dy)
        dx -= normalized * _mean(dy * normalized)
        dx *= scale
        dx = batch_first(dx.reshape(shape))
    return dx, dweight, dbias


layer_norm_backward = group_norm_backward


def _forward(
    x: Array, grouped: Shape, weight: Array | None, bias: Array | None, affine: Affine, eps: float
) -> tuple[Array, Any]:
    x = batch_last(x)
    device = device_of(x)
    values = x.reshape(grouped)
    normalized = device.empty(values.shape, x.dtype)
    # The rounding error of the mean is subtracted too: see batch_norm.py.
    device.xp.subtract(values, _mean(values), out=normalized)
    residual, square = _mean(normalized), _mean(normalized * normalized)
    scale = 1 / device.xp.sqrt(device.xp.maximum(square - residual * residual, 0) + eps)
    normalized -= residual
    normalized *= scale
    y = normalized
    if weight is not None:
        y = normalized.reshape(affine.values) * weight.reshape(affine.weight)
    if bias is not None:
        y = y.reshape(affine.values) + bias.reshape(affine.weight)
    cache = _Cache(normalized, scale, weight, None if bias is None else bias.shape, affine, x.shape)
    return batch_first(y.reshape(x.shape)), cache


def _mean(x: Array) -> Array:
    """Return the mean along axis 1, summed in two stages, so that rounding errors grow with the root of its length."""
    A, K, N = x.shape
    length = isqrt(K)
    whole = K - K % length
    total = x[:, :whole].reshape(A, whole // length, length, N).sum(axis=2).sum(axis=1)
    total += x[:, whole:].sum(axis=1)
    return (total / K)[:, None]
