"""Activation functions whose derivative costs an exponential, which it shares with the output.

So the forward pass computes it too, saves it in place of the input, and the backward pass is one product. On the rest
see `activation.py`. Where the derivative is not wanted, as in evaluation, it is not computed.
"""

from __future__ import annotations

from collections.abc import Callable
from math import pi, sqrt
from typing import Any

from ..backend import Array, array_namespace, batch_first, chain
from .activation import result, write_sigmoid
from .elementwise import map_function, map_gradient
from .normal import normal_cdf_and_bell


def elu_forward(x: Array, alpha: float, *, derivative: bool = True) -> tuple[Array, Any]:
    """Return `x` where it is positive, else `alpha·(exp(x) - 1)`, and what `elu_backward` needs.

    Clevert, Unterthiner and Hochreiter 2016.

    Args:
        x: `(N, ...)`.
        alpha: minus the limit for large negative inputs.
        derivative: False if there will be no backward pass.
    """
    return _forward("elu_forward", elu, x, None if alpha == 1 else alpha, derivative=derivative)


@chain
def elu(x: Array, alpha: float | None, y: Array = None, derivative: Array = None) -> Array:
    """Return `x` where it is positive, else `alpha·(exp(x) - 1)`.

    Args:
        x: of any shape.
        alpha: a number, or None for 1.
        y: the array to write it to, instead of returning it.
        derivative: None, or the array to write the derivative to; at 0 it is `alpha`.
    """
    xp = array_namespace(x)
    below = xp.clip(x, -xp.inf, 0, out=derivative)
    # exp(z) - 1 = 2·tanh(z/2) / (1 - tanh(z/2)), where small z keep their digits; most processors have no fast expm1.
    output = xp.multiply(below, 0.5, out=y)
    xp.tanh(output, out=output)
    output /= 1 - output
    output *= 2
    if alpha is None:
        xp.maximum(x, output, out=output)  # exp(x) - 1 is never below x
    else:
        output *= alpha
        output += xp.clip(x, 0, xp.inf)
    if derivative is not None:
        xp.exp(derivative, out=derivative)
        if alpha is not None:
            factor = (x <= 0).astype(x.dtype)
            factor *= alpha
            factor += x > 0
            derivative *= factor
    return result(output, y)


def _forward(
    name: str, function: Callable[..., Any], x: Array, *numbers: Any, derivative: bool
) -> tuple[Array, Array | None]:
    y, *saved = map_function(name, function, x, *numbers, derivative=derivative)
    return batch_first(y), saved[0] if derivative else None


def elu_backward(dy: Array, cache: Any) -> Array:
    """Return `dx`, the product of the gradient and the derivative.

    Args:
        dy: gradient w.r.t. the output, `(N, ...)`.
        cache: what the forward call returned.
    """
    return map_gradient("elu_backward", _product, dy, cache)


@chain
def _product(dy: Array, derivative: Array, dx: Array) -> None:
    array_namespace(dy).multiply(dy, derivative, out=dx)


def silu_forward(x: Array, *, derivative: bool = True) -> tuple[Array, Any]:
    """Return `x·sigmoid(x)` (Elfwing, Uchibe and Doya 2018) and what `silu_backward` needs.

    Args:
        x: `(N, ...)`.
        derivative: False if there will be no backward pass.
    """
    return _forward("silu_forward", silu, x, derivative=derivative)


@chain
def silu(x: Array, y: Array = None, derivative: Array = None) -> Array:
    """Return `x·sigmoid(x)`; `y` and `derivative` are those of `elu`."""
    gate = write_sigmoid(x, derivative)
    output = array_namespace(x).multiply(x, gate, out=y)
    if derivative is not None:
        rest = 1 - gate
        rest *= output
        derivative += rest
    return result(output, y)


def silu_backward(dy: Array, cache: Any) -> Array:
    """Return `dx`, the product of the gradient and the derivative; arguments as for `elu_backward`."""
    return map_gradient("silu_backward", _product, dy, cache)


def gelu_forward(x: Array, *, approximate: str = "none", derivative: bool = True) -> tuple[Array, Any]:
    """Return `x·Φ(x)` and what `gelu_backward` needs.

    Φ is the normal distribution's cumulative function (Hendrycks and Gimpel 2016).

    Args:
        x: `(N, ...)`.
        approximate: `"none"`, or `"tanh"` for a formula without Φ, with an error of up to 0.0005.
        derivative: False if there will be no backward pass.
    """
    function = gelu_tanh if approximate == "tanh" else gelu
    return _forward("gelu_forward", function, x, derivative=derivative)


@chain
def gelu(x: Array, y: Array = None, derivative: Array = None) -> Array:
    """Return `x·Φ(x)`; `y` and `derivative` are those of `elu`."""
    output, _ = normal_cdf_and_bell(x, y, derivative)
    if derivative is not None:
        derivative *= 1 / sqrt(2 * pi)
        derivative *= x
        derivative += output
    output *= x
    return result(output, y)


@chain
def gelu_tanh(x: Array, y: Array = None, derivative: Array = None) -> Array:
    """Return `x·(1 + tanh(√(2/π)·(x + 0.044715·x³))) / 2`, Hendrycks and Gimpel's approximation of `gelu`.

    `y` and `derivative` are those of `elu`.
    """
    xp = array_namespace(x)
    # As x·sigmoid(z): sigmoid(z) = (1 + tanh(z/2)) / 2. Beyond ±100 it is 0 or 1, and the cube could overflow.
    near = xp.clip(x, -100, 100)
    square = near * near
    near *= 2 * sqrt(2 / pi)
    near *= 1 + 0.044715 * square
    gate = write_sigmoid(near, derivative)
    output = xp.multiply(x, gate, out=y)
    if derivative is not None:
        square *= 6 * sqrt(2 / pi) * 0.044715
        square += 2 * sqrt(2 / pi)  # the derivative of z
        rest = 1 - gate
        rest *= output
        rest *= square
        derivative += rest
    return result(output, y)


def gelu_backward(dy: Array, cache: Any) -> Array:
    """Return `dx`, the product of the gradient and the derivative; arguments as for `elu_backward`."""
    return map_gradient("gelu_backward", _product, dy, cache)
