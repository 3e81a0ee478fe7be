"""Activation functions, each with its derivative as a function of the input `x` and the output `y`.

No formula overflows on the way to a finite result, whatever the finite input. Functions defined by cases are sums of
terms of which all but one are 0, since `where` costs more than an exponential on a CPU.
"""

from __future__ import annotations

from math import pi, sqrt
from typing import Any

from ..backend import Array, array_namespace, batch_first, batch_last, chain, device_of
from .checks import check_gradient, check_input
from .normal import normal_cdf, normal_density


def relu_forward(x: Array) -> tuple[Array, Any]:
    """Return `max(x, 0)` and what `relu_backward` needs.

    Args:
        x: `(N, ...)`.
    """
    device = check_input("relu_forward", x)
    x = batch_last(x)
    y = device.empty(x.shape, x.dtype)

    # In NumPy, clip takes a third of the time of maximum.
    device.map_elements(lambda x, y: device.xp.clip(x, 0, device.xp.inf, out=y), x, y)
    return batch_first(y), y


@chain
def _select(dy: Array, y: Array, dx: Array) -> None:
    dx[...] = y > 0  # converted to numbers once: multiplying by booleans takes longer
    dx *= dy


def relu_backward(dy: Array, cache: Any) -> Array:
    """Return `dx`: the gradient where the input was positive, else 0.

    Args:
        dy: gradient w.r.t. the output, `(N, ...)`.
        cache: what the forward call returned.
    """
    dy = check_gradient("relu_backward", dy, cache.shape, cache.dtype)
    device = device_of(dy)
    dx = device.empty(dy.shape, dy.dtype)
    device.map_elements(_select, dy, cache, dx)
    return batch_first(dx)


@chain
def leaky_relu(x: Array, negative_slope: float) -> Array:
    """Return `x` where it is positive, else `negative_slope·x` (Maas, Hannun and Ng 2013)."""
    xp = array_namespace(x)
    return xp.maximum(x, 0) + negative_slope * xp.minimum(x, 0)


@chain
def leaky_relu_derivative(x: Array, y: Array, negative_slope: float) -> Array:
    """Return the derivative of `leaky_relu`; at 0 it is the negative slope."""
    return (x > 0) + (x <= 0).astype(x.dtype) * negative_slope


@chain
def elu(x: Array, alpha: float) -> Array:
    """Return `x` where it is positive, else `alpha·(exp(x) - 1)` (Clevert, Unterthiner and Hochreiter 2016)."""
    xp = array_namespace(x)
    return xp.maximum(x, 0) + alpha * xp.expm1(xp.minimum(x, 0))


@chain
def elu_derivative(x: Array, y: Array, alpha: float) -> Array:
    """Return the derivative of `elu`; at 0 it is `alpha`."""
    xp = array_namespace(x)
    return (x > 0) + (x <= 0) * (alpha * xp.exp(xp.minimum(x, 0)))


@chain
def sigmoid(x: Array) -> Array:
    """Return `1 / (1 + exp(-x))`, computed as `exp(x) / (1 + exp(x))` where x is negative."""
    xp = array_namespace(x)
    return xp.exp(xp.minimum(x, 0)) / (1 + xp.exp(-xp.absolute(x)))


@chain
def sigmoid_derivative(x: Array, y: Array) -> Array:
    """Return the derivative of `sigmoid`."""
    return y * (1 - y)


@chain
def tanh(x: Array) -> Array:
    """Return the hyperbolic tangent."""
    return array_namespace(x).tanh(x)


@chain
def tanh_derivative(x: Array, y: Array) -> Array:
    """Return the derivative of `tanh`."""
    return 1 - y * y


@chain
def silu(x: Array) -> Array:
    """Return `x·sigmoid(x)` (Elfwing, Uchibe and Doya 2018)."""
    return x * sigmoid(x)


@chain
def silu_derivative(x: Array, y: Array) -> Array:
    """Return the derivative of `silu`."""
    gate = sigmoid(x)
    return gate + y * (1 - gate)


@chain
def gelu(x: Array) -> Array:
    """Return `x·Φ(x)`, where Φ is the normal distribution's cumulative function (Hendrycks and Gimpel 2016)."""
    return x * normal_cdf(x)


@chain
def gelu_derivative(x: Array, y: Array) -> Array:
    """Return the derivative of `gelu`."""
    return normal_cdf(x) + x * normal_density(x)


@chain
def gelu_tanh(x: Array) -> Array:
    """Return `x·(1 + tanh(√(2/π)·(x + 0.044715·x³))) / 2`, Hendrycks and Gimpel's approximation of `gelu`."""
    return x * sigmoid(_gelu_argument(x)[0])


@chain
def gelu_tanh_derivative(x: Array, y: Array) -> Array:
    """Return the derivative of `gelu_tanh`."""
    argument, slope = _gelu_argument(x)
    gate = sigmoid(argument)
    return gate + y * (1 - gate) * slope


def _gelu_argument(x: Array) -> tuple[Array, Array]:
    """Return z and its derivative, where `gelu_tanh` is `x·sigmoid(z)`: `sigmoid(z) = (1 + tanh(z/2)) / 2`."""
    near = array_namespace(x).clip(x, -100, 100)  # beyond, the sigmoid is 0 or 1 and the cube could overflow
    square = near * near
    factor = 2 * sqrt(2 / pi)
    return factor * near * (1 + 0.044715 * square), factor * (1 + 3 * 0.044715 * square)


def softmax_forward(x: Array, dim: int) -> tuple[Array, Any]:
    """Return `exp(x)` normalised to sum to 1 along `dim`, and what `softmax_backward` needs.

    Computed from `x` minus its maximum, so that nothing overflows.

    Args:
        x: `(N, ...)`.
        dim: the axis along which the result sums to 1; negative numbers count from the last.

    Raises:
        ValueError: if there is no such axis.
    """
    xp = check_input("softmax_forward", x, float16=False).xp
    if not -x.ndim <= dim < x.ndim:
        raise ValueError(f"dim must be an axis of the input: axis {dim} does not exist in shape {x.shape}")
    axis = (dim - 1) % x.ndim  # in the batch-last layout
    x = batch_last(x)
    maximum = x.max(axis=axis, keepdims=True) if x.size else x
    y = xp.exp(x - maximum)
    y /= y.sum(axis=axis, keepdims=True)
    return batch_first(y), (y, axis)


def softmax_backward(dy: Array, cache: Any) -> Array:
    """Return `dx = y·(dy - Σ dy·y)`, with the sum along `dim`.

    Args:
        dy: gradient w.r.t. the output, `(N, ...)`.
        cache: what the forward call returned.
    """
    y, axis = cache
    dy = check_gradient("softmax_backward", dy, y.shape, y.dtype)
    return batch_first(y * (dy - (dy * y).sum(axis=axis, keepdims=True)))
