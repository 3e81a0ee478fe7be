"""Activation layers, and the base class for new ones."""

from __future__ import annotations

from .. import functional as F
from ..backend import Array
from ..functional.checks import check_arrays, check_gradient
from .module import Module


class Activation(Module):
    """Base class of elementwise functions, given with their derivative:

        class Softsign(Activation):
            def function(self, x):
                return x / (1 + abs(x))

            def derivative(self, x, y):
                return (1 - abs(y)) ** 2

    Both are called with matching parts of a batch, which may be flattened to one axis, on the batch's device; functions
    such as `exp` come from `xp = xpcnn.backend.array_namespace(x)`. On a GPU each operation is a kernel of its own,
    unless a function decorated with `xpcnn.backend.chain` fuses them.
    """

    arithmetic = "elementwise"

    def function(self, x: Array) -> Array:
        """Return the function of each element of `x`."""
        raise NotImplementedError

    def derivative(self, x: Array, y: Array) -> Array:
        """Return the derivative at each element of `x`, computed from `x` or from `y = function(x)`."""
        raise NotImplementedError

    def forward(self, x: Array) -> Array:
        y, cache = F.elementwise_forward(x, self.function)
        self.save_for_backward(cache, y)
        return y

    def backward(self, dy: Array, *, input_gradient: bool = True) -> Array | None:
        return F.elementwise_backward(dy, self.saved(), self.derivative)


class ReLU(Module):
    """`max(x, 0)`, elementwise; the gradient at 0 is 0."""

    arithmetic = "exact"

    def forward(self, x: Array) -> Array:
        y, cache = F.relu_forward(x)
        self.save_for_backward(cache, y)
        return y

    def backward(self, dy: Array, *, input_gradient: bool = True) -> Array | None:
        return F.relu_backward(dy, self.saved())


class ReLU6(Module):
    """`min(max(x, 0), 6)`, elementwise (Howard et al. 2017); the gradient at 0 and at 6 is 0."""

    arithmetic = "exact"

    def forward(self, x: Array) -> Array:
        y, cache = F.relu6_forward(x)
        self.save_for_backward(cache, y)
        return y

    def backward(self, dy: Array, *, input_gradient: bool = True) -> Array | None:
        return F.relu6_backward(dy, self.saved())


class LeakyReLU(Module):
    """`x` where it is positive, else `negative_slope·x` (Maas, Hannun and Ng 2013).

    Args:
        negative_slope: the slope for negative inputs, and the gradient at 0.
    """

    arithmetic = "elementwise"

    def __init__(self, negative_slope: float = 0.01) -> None:
        super().__init__()
        self.negative_slope = negative_slope

    def extra_repr(self) -> str:
        return f"negative_slope={self.negative_slope}"

    def forward(self, x: Array) -> Array:
        y, cache = F.leaky_relu_forward(x, self.negative_slope)
        self.save_for_backward(cache, y)
        return y

    def backward(self, dy: Array, *, input_gradient: bool = True) -> Array | None:
        return F.leaky_relu_backward(dy, self.saved())


class ELU(Module):
    """`x` where it is positive, else `alpha·(exp(x) - 1)` (Clevert, Unterthiner and Hochreiter 2016).

    Args:
        alpha: minus the limit for large negative inputs, and the gradient at 0.
    """

    arithmetic = "elementwise"

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        self.alpha = alpha

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}"

    def forward(self, x: Array) -> Array:
        y, cache = F.elu_forward(x, self.alpha, derivative=self.training)
        self.save_for_backward(cache)
        return y

    def backward(self, dy: Array, *, input_gradient: bool = True) -> Array | None:
        return F.elu_backward(dy, self.saved())


class GELU(Module):
    """`x·Φ(x)`, where Φ is the normal distribution's cumulative function (Hendrycks and Gimpel 2016).

    Args:
        approximate: `"none"`, or `"tanh"` for a formula without Φ, with an error of up to 0.0005.

    Raises:
        ValueError: if it is neither.
    """

    arithmetic = "elementwise"

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        if approximate not in ("none", "tanh"):
            raise ValueError(f'approximate must be "none" or "tanh", got {approximate!r}')
        self.approximate = approximate

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"

    def forward(self, x: Array) -> Array:
        y, cache = F.gelu_forward(x, approximate=self.approximate, derivative=self.training)
        self.save_for_backward(cache)
        return y

    def backward(self, dy: Array, *, input_gradient: bool = True) -> Array | None:
        return F.gelu_backward(dy, self.saved())


class SiLU(Module):
    """`x·sigmoid(x)`, also known as swish (Elfwing, Uchibe and Doya 2018)."""

    arithmetic = "elementwise"

    def forward(self, x: Array) -> Array:
        y, cache = F.silu_forward(x, derivative=self.training)
        self.save_for_backward(cache)
        return y

    def backward(self, dy: Array, *, input_gradient: bool = True) -> Array | None:
        return F.silu_backward(dy, self.saved())


class Sigmoid(Module):
    """`1 / (1 + exp(-x))`."""

    arithmetic = "elementwise"

    def forward(self, x: Array) -> Array:
        y, cache = F.sigmoid_forward(x)
        self.save_for_backward(cache, y)
        return y

    def backward(self, dy: Array, *, input_gradient: bool = True) -> Array | None:
        return F.sigmoid_backward(dy, self.saved())


class Tanh(Module):
    """The hyperbolic tangent."""

    arithmetic = "elementwise"

    def forward(self, x: Array) -> Array:
        y, cache = F.tanh_forward(x)
        self.save_for_backward(cache, y)
        return y

    def backward(self, dy: Array, *, input_gradient: bool = True) -> Array | None:
        return F.tanh_backward(dy, self.saved())


class Identity(Module):
    """Returns its input, where a layer is required and none is wanted."""

    arithmetic = "exact"

    def forward(self, x: Array) -> Array:
        check_arrays("Identity", input=x)
        self.save_for_backward((x.shape[1:] + x.shape[:1], x.dtype))
        return x

    def backward(self, dy: Array, *, input_gradient: bool = True) -> Array | None:
        check_gradient("Identity.backward", dy, *self.saved())
        return dy


class Softmax(Module):
    """`exp(x)` normalised to sum to 1 along `dim`. Do not use it before `CrossEntropyLoss`, which takes logits.

    Args:
        dim: the axis along which the output sums to 1; negative numbers count from the last.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def extra_repr(self) -> str:
        return f"dim={self.dim}"

    def forward(self, x: Array) -> Array:
        y, cache = F.softmax_forward(x, self.dim)
        self.save_for_backward(cache, y)
        return y

    def backward(self, dy: Array, *, input_gradient: bool = True) -> Array | None:
        return F.softmax_backward(dy, self.saved())
