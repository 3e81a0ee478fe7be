"""The fully connected layer, and the flattening before it."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from .. import functional as F
from ..backend import Array, batch_first, batch_last
from ..functional.checks import check_gradient
from ..functional.windows import Limits
from ..random import default_generator
from .init import Initializer, he_normal
from .module import Module, Weighted, host_parameter


class Linear(Weighted):
    """A fully connected layer, `y = x @ weight.T + bias`.

    Args:
        in_features, out_features: number of values per sample in the input and in the output.
        bias: whether a number per output is added.
        weight_init: initialises the weight `(out_features, in_features)`; the bias starts at 0.
        rng: the generator for `weight_init`; None for the package's default one.
        dtype: of the parameters, and therefore of the inputs.

    Shape: `(N, in_features)` to `(N, out_features)`.

    Raises:
        ValueError: if a size is below 1.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        weight_init: Initializer = he_normal,
        rng: np.random.Generator | None = None,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__()
        if min(in_features, out_features) < 1:
            raise ValueError(f"in_features and out_features must be at least 1, got {in_features} and {out_features}")
        self.in_features, self.out_features = in_features, out_features
        self.weight = host_parameter(weight_init((out_features, in_features), rng or default_generator()), dtype)
        self.bias = host_parameter(np.zeros(out_features), dtype) if bias else None

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"

    def forward(self, x: Array) -> Array:
        return self._forward(F.linear_forward, x)

    def clipped(self, x: Array, limits: Limits) -> Array:
        """Return the output clipped to the limits of the ReLU after it, whose backward pass comes before this one's."""
        return self._forward(F.linear_forward, x, limits=limits)

    def backward(self, dy: Array, *, input_gradient: bool = True) -> Array | None:
        return self._backward(F.linear_input_gradient, F.linear_parameter_gradients, dy, input_gradient)


class PointwiseLinear(Linear):
    """A linear layer applied to the channels at each position: `(N, in, H, W)` to `(N, out, H, W)`.

    A 1×1 convolution whose weight has the shape `(out, in)`.
    """

    def forward(self, x: Array) -> Array:
        return self._forward(_pointwise, x)

    def infer(self, x: Array, weight: Array, bias: Array | None, **options: Any) -> Array:
        """Return the output with another weight and bias; see `functional.conv2d` for the options."""
        return F.conv2d(x, weight[:, :, None, None], bias, **options)

    def backward(self, dy: Array, *, input_gradient: bool = True) -> Array | None:
        return self._backward(F.conv2d_input_gradient, _pointwise_parameter_gradients, dy, input_gradient)


def _pointwise(x: Array, weight: Array, bias: Array | None) -> tuple[Array, Any]:
    return F.conv2d_forward(x, weight[:, :, None, None], bias)


def _pointwise_parameter_gradients(dy: Array, cache: Any) -> tuple[Array, Array | None]:
    dweight, dbias = F.conv2d_parameter_gradients(dy, cache)
    return dweight.reshape(dweight.shape[:2]), dbias


class Flatten(Module):
    """Flattens all axes but the first, `(N, C, H, W)` to `(N, C·H·W)`; a view in the batch-last layout."""

    arithmetic = "exact"

    def forward(self, x: Array) -> Array:
        try:
            x = batch_last(x)
        except (AttributeError, ValueError):  # not an array, or one without axes
            raise TypeError(f"expected an array (N, ...) to flatten, got {type(x).__name__}") from None
        self.save_for_backward((x.shape, x.dtype))
        return x.reshape(prod(x.shape[:-1]), x.shape[-1]).T

    def backward(self, dy: Array, *, input_gradient: bool = True) -> Array | None:
        shape, dtype = self.saved()
        dy = check_gradient("Flatten.backward", dy, (prod(shape[:-1]), shape[-1]), dtype)
        return batch_first(dy.reshape(shape))
