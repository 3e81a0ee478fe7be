"""Activation functions whose derivative is a simple function of the output, which is saved for the backward pass.

The next layer often saves that array too, and the input need not stay in memory. The others are in
`smooth_activation.py`.

The formulas write to arrays that are given to them, and on the CPU are called with parts of a batch that stay in cache.
The first operation already writes to the output, the others change it in place: so reading and writing far memory
overlap.
No formula overflows on the way to a finite result, whatever the finite input. Cases are told apart by `clip`, `maximum`
and comparisons, since on a CPU `where` costs more than an exponential; `clip` takes a third of the time of `maximum`
with a number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..backend import Array, array_namespace, batch_first, batch_last, chain
from .checks import check_input
from .elementwise import map_function, map_gradient
from .windows import Limits


def relu_forward(x: Array) -> tuple[Array, Any]:
    """Return `max(x, 0)` and what `relu_backward` needs.

    Args:
        x: `(N, ...)`.
    """
    return _forward("relu_forward", _relu, x, in_pieces=False)


def _relu(x: Array, y: Array) -> None:
    xp = array_namespace(x)
    xp.clip(x, 0, xp.inf, out=y)


def relu_backward(dy: Array, cache: Any) -> Array:
    """Return `dx`: the gradient where the input was positive, else 0.

    Args:
        dy: gradient w.r.t. the output, `(N, ...)`.
        cache: what the forward call returned.
    """
    return map_gradient("relu_backward", _relu_gradient, dy, cache)


def clip_in_place(x: Array, limits: Limits) -> Array:
    """Return `x (N, ...)` clipped to the limits of an activation, such as `(0, inf)` for ReLU; overwrites `x`."""
    device = check_input("clip_in_place", x)
    x = batch_last(x)
    device.map_elements(lambda x: device.xp.clip(x, *limits, out=x), x)
    return batch_first(x)


@chain
def _relu_gradient(dy: Array, y: Array, dx: Array) -> None:
    dx[...] = y > 0  # converted to numbers once: multiplying by booleans takes longer
    dx *= dy


def relu6_forward(x: Array) -> tuple[Array, Any]:
    """Return `min(max(x, 0), 6)` (Howard et al. 2017) and what `relu6_backward` needs.

    Args:
        x: `(N, ...)`.
    """
    return _forward("relu6_forward", _relu6, x, in_pieces=False)


def _relu6(x: Array, y: Array) -> None:
    array_namespace(x).clip(x, 0, 6, out=y)


def relu6_backward(dy: Array, cache: Any) -> Array:
    """Return `dx`: the gradient where the input was between 0 and 6, else 0.

    Args:
        dy: gradient w.r.t. the output, `(N, ...)`.
        cache: what the forward call returned.
    """
    return map_gradient("relu6_backward", _relu6_gradient, dy, cache)


@chain
def _relu6_gradient(dy: Array, y: Array, dx: Array) -> None:
    dx[...] = (y > 0) & (y < 6)
    dx *= dy


def leaky_relu_forward(x: Array, negative_slope: float) -> tuple[Array, Any]:
    """Return `x` where it is positive, else `negative_slope·x`, and what `leaky_relu_backward` needs.

    Maas, Hannun and Ng 2013.

    Args:
        x: `(N, ...)`.
        negative_slope: the slope for negative inputs.
    """
    if 0 < negative_slope <= 1:
        y, saved = _forward("leaky_relu_forward", _leaky_relu, x, negative_slope, in_pieces=False)
    else:
        y, _ = _forward("leaky_relu_forward", leaky_relu, x, negative_slope)
        saved = batch_last(x)  # a negative slope would hide the sign
    return y, (saved, negative_slope)


@chain
def _leaky_relu(x: Array, negative_slope: float, y: Array) -> None:
    xp = array_namespace(x)
    xp.multiply(x, negative_slope, out=y)
    xp.maximum(x, y, out=y)


@chain
def leaky_relu(x: Array, negative_slope: float, y: Array = None) -> Array:
    """Return `x` where it is positive, else `negative_slope·x`, or write it to `y`."""
    xp = array_namespace(x)
    return result(xp.add(xp.clip(x, 0, xp.inf), xp.clip(x, -xp.inf, 0) * negative_slope, out=y), y)


def leaky_relu_backward(dy: Array, cache: Any) -> Array:
    """Return `dx`: the gradient where the input was positive, else that times the negative slope.

    Args:
        dy: gradient w.r.t. the output, `(N, ...)`.
        cache: what the forward call returned.
    """
    saved, negative_slope = cache
    gradient = _leaky_relu_gradient if 0 < negative_slope <= 1 else _steep_gradient
    return map_gradient("leaky_relu_backward", gradient, dy, saved, negative_slope)


@chain
def _leaky_relu_gradient(dy: Array, y: Array, negative_slope: float, dx: Array) -> None:
    dx[...] = y > 0
    array_namespace(dy).clip(dx, negative_slope, 1, out=dx)
    dx *= dy


@chain
def _steep_gradient(dy: Array, x: Array, negative_slope: float, dx: Array) -> None:
    dx[...] = x <= 0
    dx *= negative_slope
    dx += x > 0
    dx *= dy


def sigmoid_forward(x: Array) -> tuple[Array, Any]:
    """Return `1 / (1 + exp(-x))` and what `sigmoid_backward` needs.

    Args:
        x: `(N, ...)`.
    """
    return _forward("sigmoid_forward", sigmoid, x)


@chain
def sigmoid(x: Array, y: Array = None) -> Array:
    """Return `1 / (1 + exp(-x))`, or write it to `y`; computed as `exp(x) / (1 + exp(x))`."""
    return result(write_sigmoid(x, y), y)


def write_sigmoid(x: Array, y: Array | None) -> Array:
    """Write `sigmoid(x)` to `y`, or to a new array if it is None, and return that array."""
    xp = array_namespace(x)
    y = xp.clip(x, -xp.inf, 40 if x.dtype.itemsize > 2 else 11, out=y)  # beyond, the sigmoid is rounded to 1
    xp.exp(y, out=y)
    y /= 1 + y
    return y


def sigmoid_backward(dy: Array, cache: Any) -> Array:
    """Return `dx = dy·y·(1 - y)`.

    Args:
        dy: gradient w.r.t. the output, `(N, ...)`.
        cache: what the forward call returned.
    """
    return map_gradient("sigmoid_backward", _sigmoid_gradient, dy, cache)


@chain
def _sigmoid_gradient(dy: Array, y: Array, dx: Array) -> None:
    array_namespace(dy).subtract(1, y, out=dx)
    dx *= y
    dx *= dy


def tanh_forward(x: Array) -> tuple[Array, Any]:
    """Return the hyperbolic tangent and what `tanh_backward` needs.

    Args:
        x: `(N, ...)`.
    """
    return _forward("tanh_forward", tanh, x, in_pieces=False)


@chain
def tanh(x: Array, y: Array = None) -> Array:
    """Return the hyperbolic tangent, or write it to `y`."""
    return result(array_namespace(x).tanh(x, out=y), y)


def tanh_backward(dy: Array, cache: Any) -> Array:
    """Return `dx = dy·(1 - y²)`.

    Args:
        dy: gradient w.r.t. the output, `(N, ...)`.
        cache: what the forward call returned.
    """
    return map_gradient("tanh_backward", _tanh_gradient, dy, cache)


@chain
def _tanh_gradient(dy: Array, y: Array, dx: Array) -> None:
    xp = array_namespace(dy)
    xp.multiply(y, y, out=dx)
    xp.subtract(1, dx, out=dx)
    dx *= dy


def _forward(
    name: str, function: Callable[..., Any], x: Array, *numbers: Any, in_pieces: bool = True
) -> tuple[Array, Array]:
    (y,) = map_function(name, function, x, *numbers, in_pieces=in_pieces)
    return batch_first(y), y


def result(computed: Array, out: Array | None) -> Array | None:
    """Return what a chain computed, or None if it is in `out` already: a fused kernel would write it twice."""
    return computed if out is None else None
