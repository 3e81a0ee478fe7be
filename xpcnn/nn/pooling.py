"""Pooling layers."""

from __future__ import annotations

from typing import Any

from .. import functional as F
from ..backend import Array
from ..functional.windows import IntOrPair, Padding
from .module import Module


class MaxPool2d(Module):
    """The largest value under each position of a window; the first of equal ones takes the gradient.

    Args:
        kernel_size: size of the window, one number or a pair.
        stride: step between positions; None for the size of the window.
        padding: at most half the window; what is added never wins.
        dilation: step between the elements of the window.

    Shape: `(N, C, H, W)` to `(N, C, OH, OW)`.
    """

    def __init__(
        self,
        kernel_size: IntOrPair,
        stride: IntOrPair | None = None,
        padding: Padding = 0,
        dilation: IntOrPair = 1,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self._options: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation}

    def extra_repr(self) -> str:
        return ", ".join([f"{self.kernel_size}", *(f"{name}={value}" for name, value in self._options.items())])

    def forward(self, x: Array) -> Array:
        y, cache = F.max_pool2d_forward(x, self.kernel_size, **self._options)
        self._keep(cache)
        return y

    def backward(self, dy: Array, *, input_gradient: bool = True) -> Array | None:
        return F.max_pool2d_backward(dy, self._take())
