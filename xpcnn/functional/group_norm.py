"""Group and layer normalisation: groups of each image's values to mean 0 and variance 1, independent of the batch.

All of them are one kernel, `standardize.py`: they differ in which of the values form a group, and share a weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

from ..backend import Array, Shape, batch_first, batch_last
from .batch_norm import check_parameters
from .checks import check_gradient, check_input
from .standardize import standardize_backward, standardize_forward


class _Cache(NamedTuple):
    standardized: Any  # what `standardize_backward` needs
    parameters: tuple[Shape, Shape]  # the shapes of weight and bias
    grouped: tuple[int, int, int, int]  # the input's shape as `standardize_forward` sees it
    shape: Shape  # of the input, (..., N)
    dtype: Any


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
    return _forward(x, (groups, C // groups, prod(x.shape[2:]), N), (groups, C // groups, 1, 1), weight, bias, eps)


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
    return _forward(x, (A, K, 1, N), (1, K, 1, 1), weight, bias, eps)


def layer_norm2d_forward(
    x: Array, weight: Array | None = None, bias: Array | None = None, *, eps: float = 1e-6
) -> tuple[Array, Any]:
    """Return `(x - mean) / √(variance + eps) · weight + bias`, over the channels of each pixel (Liu et al. 2022).

    Args:
        x: `(N, C, ...)`.
        weight, bias: `(C,)`, of the same dtype as `x`, or None.
        eps: added to the variance, so that constant values are not divided by 0.

    Returns:
        `y` in the shape of `x`, and what `layer_norm2d_backward` needs.

    Raises:
        ValueError: if shapes or dtypes do not fit.
    """
    check_input("layer_norm2d_forward", x, "(N, C, ...)", float16=False)
    if x.ndim < 2 or 0 in x.shape[1:]:
        raise ValueError(f"expected input (N, C, ...), got {x.shape}")
    N, C = x.shape[:2]
    check_parameters("layer_norm2d_forward", x, x.shape[1:2], weight=weight, bias=bias)
    return _forward(x, (1, C, 1, prod(x.shape[2:]) * N), (1, C, 1, 1), weight, bias, eps)


def group_norm_backward(
    dy: Array, cache: Any, *, input_gradient: bool = True, parameter_gradients: bool = True
) -> tuple[Array | None, Array | None, Array | None]:
    """Return the gradients w.r.t. the input, weight and bias of `group_norm_forward` or `layer_norm_forward`.

    Args:
        dy: gradient w.r.t. the output, in the shape of `x`.
        cache: what the forward call returned.
        input_gradient: False to skip the gradient w.r.t. the input.
        parameter_gradients: False to skip those w.r.t. weight and bias.

    Returns:
        `dx`, `dweight` and `dbias`, each None if it was not asked for or there was no such argument.
    """
    standardized, parameters, grouped, shape, dtype = cache
    dy = check_gradient("group_norm_backward", dy, shape, dtype)
    options = {"input_gradient": input_gradient, "parameter_gradients": parameter_gradients}
    dx, *gradients = standardize_backward(dy.reshape(grouped), standardized, **options)
    dweight, dbias = (
        gradient if gradient is None else gradient.reshape(-1, *parameter).sum(axis=0)
        for gradient, parameter in zip(gradients, parameters, strict=True)
    )
    return None if dx is None else batch_first(dx.reshape(shape)), dweight, dbias


layer_norm_backward = layer_norm2d_backward = group_norm_backward


def _forward(
    x: Array,
    grouped: tuple[int, int, int, int],
    parameter: Shape,
    weight: Array | None,
    bias: Array | None,
    eps: float,
) -> tuple[Array, Any]:
    x = batch_last(x)
    parameters = [None if array is None else array.reshape(parameter) for array in (weight, bias)]
    y, cache = standardize_forward(x.reshape(grouped), parameters[0], parameters[1], eps)
    shapes = () if weight is None else weight.shape, () if bias is None else bias.shape
    return batch_first(y.reshape(x.shape)), _Cache(cache, shapes, grouped, x.shape, x.dtype)
