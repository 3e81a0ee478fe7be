"""The fully connected layer: three matrix products."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..backend import Array, Device, Shape, batch_last, blocks, device_of, rounded
from .checks import check_arrays, check_dtypes, check_gradient, check_input
from .windows import Limits, finish

_LEAST_ROWS = 16  # products of fewer rows are slow in BLAS


class _Cache(NamedTuple):
    x: Array  # (features, N)
    weight: Array
    has_bias: bool
    output: Shape  # of the output, (out, N)


def linear_forward(
    x: Array, weight: Array, bias: Array | None = None, *, limits: Limits | None = None
) -> tuple[Array, Any]:
    """Return `x @ weight.T + bias` and what `linear_backward` needs.

    Args:
        x: `(N, in)`.
        weight: `(out, in)`, of the same dtype; or float32 if `x` is float16, as in `conv2d_forward`.
        bias: `(out,)`, or None.
        limits: what the output is clipped to, `(0, inf)` for a ReLU after it; None for nothing. The backward pass is
            that of the linear layer alone.

    Returns:
        `y (N, out)` and the cache.

    Raises:
        ValueError: if shapes or dtypes do not fit together.
    """
    device = _checked_device(x, weight, bias)
    x = batch_last(x)
    y = _product(weight, x, device)  # (out, in) @ (in, N)
    finish(y, None if bias is None else bias[:, None], limits, device)
    return y.T, _Cache(x, weight, bias is not None, y.shape)


def linear(x: Array, weight: Array, bias: Array | None, limits: Limits) -> Array:
    """Return the output of `linear_forward`, clipped to the lowest and highest value of an activation: for inference.

    Args:
        x, weight, bias: those of `linear_forward`.
        limits: `(0, inf)` for a ReLU.
    """
    device = _checked_device(x, weight, bias)
    y = _product(weight, batch_last(x), device)
    finish(y, None if bias is None else bias[:, None], limits, device)
    return y.T


def linear_backward(dy: Array, cache: Any, *, input_gradient: bool = True) -> tuple[Array | None, Array, Array | None]:
    """Return the gradients w.r.t. the input, weight and bias of `linear_forward`.

    Args:
        dy: gradient w.r.t. the output, `(N, out)`.
        cache: what the forward call returned.
        input_gradient: False to skip the gradient w.r.t. the input, which a network's first layer does not need.

    Returns:
        `dx (N, in)` or None, `dweight (out, in)`, `dbias (out,)` or None.
    """
    dx = linear_input_gradient(dy, cache) if input_gradient else None
    return dx, *linear_parameter_gradients(dy, cache)


def linear_input_gradient(dy: Array, cache: Any) -> Array:
    """Return `dx (N, in)` alone, as `linear_backward` does."""
    dy = check_gradient("linear_backward", dy, cache.output, cache.weight.dtype)
    return _product(cache.weight.T, rounded(dy, cache.x.dtype), device_of(dy)).T  # (in, out) @ (out, N)


def linear_parameter_gradients(dy: Array, cache: Any) -> tuple[Array, Array | None]:
    """Return `dweight` and `dbias` alone, as `linear_backward` does."""
    x, weight, has_bias, output = cache
    dy = check_gradient("linear_backward", dy, output, weight.dtype)
    dweight = _product(dy, x.T, device_of(dy))  # (out, N) @ (N, in)
    return dweight, dy.sum(axis=1) if has_bias else None


def _checked_device(x: Array, weight: Array, bias: Array | None) -> Device:
    device = check_input("linear_forward", x, "(N, in)")
    try:
        _check(x, weight, bias)
    except AttributeError:
        check_arrays("linear_forward", weight=weight, bias=bias)
        raise
    return device


def _check(x: Array, weight: Array, bias: Array | None) -> None:
    if x.ndim != 2 or weight.ndim != 2 or x.shape[1] != weight.shape[1]:
        raise ValueError(f"expected input (N, {weight.shape[-1]}) for weight {weight.shape}, got {x.shape}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"expected bias {weight.shape[:1]}, got {bias.shape}")
    check_dtypes(x, weight)


def _product(a: Array, b: Array, device: Device) -> Array:
    """Return `a @ b`, computed in parallel in blocks of rows, whose number follows from the shapes alone."""
    (M, K), N = a.shape, b.shape[1]
    result = device.empty((M, N), np.promote_types(a.dtype, b.dtype))
    # The work counts twice: each part is one BLAS call, without the interpreter lock, so smaller parts pay.
    parts = device.parts(2 * M * N * K, at_most=M // _LEAST_ROWS)
    if parts == 1:
        device.matmul(a, b, out=result)
    else:
        device.map(lambda rows: device.matmul(a[rows], b, out=result[rows]), blocks(M, parts))
    return result
