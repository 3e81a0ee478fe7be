"""Pooling layers."""

from __future__ import annotations

from typing import Any

from .. import functional as F
from ..backend import Array
from ..functional.windows import IntOrPair, Limits, Padding, pair, pooling_window
from .module import Module


class MaxPool2d(Module):
    """The maximum under each position of a window; the gradient goes to the first of equal values, or to the last NaN.

    Args:
        kernel_size: height and width of the window in pixels, one number or a pair.
        stride: step between positions; None for the size of the window.
        padding: rows and columns around the image that never are the maximum; at most half the window.
        dilation: step between the elements of the window.
        ceil_mode: whether the number of positions is rounded up, so that no pixels are left out.

    Shape: `(N, C, H, W)` to `(N, C, OH, OW)`.

    Raises:
        ValueError: if an option is out of range.
    """

    arithmetic = "exact"

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
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        self.padding, self.dilation, self.ceil_mode = padding, dilation, ceil_mode

    def extra_repr(self) -> str:
        return _options_repr(self, "stride", "padding", "dilation", "ceil_mode")

    def forward(self, x: Array) -> Array:
        return self.clipped(x, None)

    def clipped(self, x: Array, limits: Limits | None) -> Array:
        """Return the output of training, clipped to the limits of the ReLU after it; `backward` is that of both."""
        options: dict[str, Any] = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}
        options |= {"ceil_mode": self.ceil_mode, "save_for_backward": self.training, "limits": limits}
        y, cache = F.max_pool2d_forward(x, self.kernel_size, **options)
        self.save_for_backward(cache, None if limits is None else y)
        return y

    def backward(self, dy: Array, *, input_gradient: bool = True) -> Array | None:
        return F.max_pool2d_backward(dy, self.saved())


class AvgPool2d(Module):
    """The mean under each position of a window.

    Args:
        kernel_size: height and width of the window in pixels, one number or a pair.
        stride: step between positions; None for the size of the window.
        padding: rows and columns of zeros around the image, at most half the window.
        ceil_mode: whether the number of positions is rounded up, so that no pixels are left out.
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
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        self.padding, self.ceil_mode, self.count_include_pad = padding, ceil_mode, count_include_pad

    def extra_repr(self) -> str:
        return _options_repr(self, "stride", "padding", "ceil_mode", "count_include_pad")

    def forward(self, x: Array) -> Array:
        options: dict[str, Any] = {"stride": self.stride, "padding": self.padding, "ceil_mode": self.ceil_mode}
        y, cache = F.avg_pool2d_forward(x, self.kernel_size, count_include_pad=self.count_include_pad, **options)
        self.save_for_backward(cache)
        return y

    def backward(self, dy: Array, *, input_gradient: bool = True) -> Array | None:
        return F.avg_pool2d_backward(dy, self.saved())


class AdaptiveAvgPool2d(Module):
    """The means over a grid of `output_size` rectangles that cover the image, whatever its size.

    Args:
        output_size: height and width of the grid, one number or a pair.

    Shape: `(N, C, H, W)` to `(N, C, *output_size)`.
    """

    def __init__(self, output_size: IntOrPair) -> None:
        super().__init__()
        self.output_size = pair(output_size, "output_size", 1)

    def extra_repr(self) -> str:
        return f"{self.output_size}"

    def forward(self, x: Array) -> Array:
        y, cache = F.adaptive_avg_pool2d_forward(x, self.output_size)
        self.save_for_backward(cache)
        return y

    def backward(self, dy: Array, *, input_gradient: bool = True) -> Array | None:
        return F.adaptive_avg_pool2d_backward(dy, self.saved())


class GlobalAvgPool2d(Module):
    """Each channel's mean over the image: `(N, C, H, W)` to `(N, C)`."""

    def forward(self, x: Array) -> Array:
        y, cache = F.global_avg_pool2d_forward(x)
        self.save_for_backward(cache)
        return y

    def backward(self, dy: Array, *, input_gradient: bool = True) -> Array | None:
        return F.global_avg_pool2d_backward(dy, self.saved())


def _options_repr(layer: MaxPool2d | AvgPool2d, *options: str) -> str:
    return ", ".join([f"{layer.kernel_size}", *(f"{name}={getattr(layer, name)}" for name in options)])
