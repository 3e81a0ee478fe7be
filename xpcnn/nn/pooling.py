"""Pooling layers."""

from __future__ import annotations

from typing import Any

from .. import functional as F
from ..backend import Array
from ..functional.windows import IntOrPair, Padding, pair, pooling_window
from .module import Module


class _WindowPool2d(Module):
    """A pooling layer with a window and options."""

    kernel_size: IntOrPair
    _options: dict[str, Any]

    def extra_repr(self) -> str:
        return ", ".join([f"{self.kernel_size}", *(f"{name}={value}" for name, value in self._options.items())])


class MaxPool2d(_WindowPool2d):
    """The largest value under each position of a window; the first of equal ones takes the gradient.

    Args:
        kernel_size: size of the window, one number or a pair.
        stride: step between positions; None for the size of the window.
        padding: at most half the window; what is added never wins.
        dilation: step between the elements of the window.
        ceil_mode: whether a last window may reach over the edge, so that no pixels are left over.

    Shape: `(N, C, H, W)` to `(N, C, OH, OW)`.

    Raises:
        ValueError: if an option is out of range.
    """

    def __init__(
        self,
        kernel_size: IntOrPair,
        stride: IntOrPair | None = None,
        padding: Padding = 0,
        dilation: IntOrPair = 1,
        *,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        pooling_window(kernel_size, stride, padding, dilation)
        self.kernel_size = kernel_size
        self._options = {"stride": stride, "padding": padding, "dilation": dilation}
        self._options["ceil_mode"] = ceil_mode

    def forward(self, x: Array) -> Array:
        y, cache = F.max_pool2d_forward(x, self.kernel_size, **self._options)
        self._keep(cache)
        return y

    def backward(self, dy: Array, *, input_gradient: bool = True) -> Array | None:
        return F.max_pool2d_backward(dy, self._take())


class AvgPool2d(_WindowPool2d):
    """The mean under each position of a window.

    Args:
        kernel_size: size of the window, one number or a pair.
        stride: step between positions; None for the size of the window.
        padding: zeros around the image, at most half the window.
        ceil_mode: whether a last window may reach over the edge, so that no pixels are left over.
        count_include_pad: whether the zeros of the padding count as values in the mean.

    Shape: `(N, C, H, W)` to `(N, C, OH, OW)`.

    Raises:
        ValueError: if an option is out of range.
    """

    def __init__(
        self,
        kernel_size: IntOrPair,
        stride: IntOrPair | None = None,
        padding: Padding = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__()
        pooling_window(kernel_size, stride, padding, 1)
        self.kernel_size = kernel_size
        self._options = {"stride": stride, "padding": padding, "ceil_mode": ceil_mode}
        self._options["count_include_pad"] = count_include_pad

    def forward(self, x: Array) -> Array:
        y, cache = F.avg_pool2d_forward(x, self.kernel_size, **self._options)
        self._keep(cache)
        return y

    def backward(self, dy: Array, *, input_gradient: bool = True) -> Array | None:
        return F.avg_pool2d_backward(dy, self._take())


class AdaptiveAvgPool2d(Module):
    """The means over a grid of `output_size` rectangles that cover the image, whatever its size.

    Shape: `(N, C, H, W)` to `(N, C, *output_size)`.
    """

    def __init__(self, output_size: IntOrPair) -> None:
        super().__init__()
        self.output_size = pair(output_size, "output_size", 1)

    def extra_repr(self) -> str:
        return f"{self.output_size}"

    def forward(self, x: Array) -> Array:
        y, cache = F.adaptive_avg_pool2d_forward(x, self.output_size)
        self._keep(cache)
        return y

    def backward(self, dy: Array, *, input_gradient: bool = True) -> Array | None:
        return F.adaptive_avg_pool2d_backward(dy, self._take())


class GlobalAvgPool2d(Module):
    """Each channel's mean over the image: `(N, C, H, W)` to `(N, C)`."""

    def forward(self, x: Array) -> Array:
        y, cache = F.global_avg_pool2d_forward(x)
        self._keep(cache)
        return y

    def backward(self, dy: Array, *, input_gradient: bool = True) -> Array | None:
        return F.global_avg_pool2d_backward(dy, self._take())
