"""Convolution and transposed convolution layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import functional as F
from ..backend import Array
from ..functional.conv_transpose import transposed_window
from ..functional.windows import IntOrPair, Limits, Padding, make_window
from ..random import default_generator
from .init import Initializer, he_normal
from .module import Weighted, host_parameter


class Conv2d(Weighted):
    """Two-dimensional convolution; see `functional.conv2d_forward`.

    Args:
        in_channels, out_channels: number of channels of the input and of the output.
        kernel_size: height and width of the filters in pixels, one number or a pair.
        stride, padding, dilation: in pixels, or padding as `"same"` or `"valid"`; see `functional.windows.make_window`.
        groups: into how many equal groups the channels are split; `in_channels` gives a depthwise convolution.
        bias: whether a number per output channel is added.
        weight_init: initialises the weight `(out_channels, in_channels / groups, KH, KW)`; the bias starts at 0.
        rng: the generator for `weight_init`; None for the package's default one.
        dtype: of the parameters, and therefore of the inputs.

    Shape: `(N, in_channels, H, W)` to `(N, out_channels, OH, OW)`.

    Raises:
        ValueError: if an option is out of range or the groups do not divide the channels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrPair,
        stride: IntOrPair = 1,
        padding: Padding = 0,
        dilation: IntOrPair = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        weight_init: Initializer = he_normal,
        rng: np.random.Generator | None = None,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__()
        _check_groups(groups, in_channels, out_channels)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size = make_window(kernel_size, stride, padding, dilation).kernel
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        weight = weight_init((out_channels, in_channels // groups, *self.kernel_size), rng or default_generator())
        self.weight = host_parameter(weight, dtype)
        self.bias = host_parameter(np.zeros(out_channels), dtype) if bias else None

    def extra_repr(self) -> str:
        return _options_repr(self, "stride", "padding", "dilation", "groups")

    def forward(self, x: Array) -> Array:
        return self.clipped(x, None)

    def clipped(self, x: Array, limits: Limits | None) -> Array:
        """Return the output clipped to the limits of the ReLU after it, whose backward pass comes before this one's."""
        options = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation, "groups": self.groups}
        return self._forward(F.conv2d_forward, x, limits=limits, **options)

    def backward(self, dy: Array, *, input_gradient: bool = True) -> Array | None:
        return self._backward(F.conv2d_input_gradient, F.conv2d_parameter_gradients, dy, input_gradient)

    def infer(self, x: Array, weight: Array, bias: Array | None, **options: Any) -> Array:
        """Return the output with another weight and bias; see `functional.conv2d` for the options."""
        options |= {"stride": self.stride, "padding": self.padding, "dilation": self.dilation, "groups": self.groups}
        return F.conv2d(x, weight, bias, **options)


class ConvTranspose2d(Weighted):
    """Two-dimensional transposed convolution: the adjoint of a convolution, which enlarges what that shrinks.

    The weight has the shape `(in_channels, out_channels / groups, KH, KW)`, as in PyTorch.

    Args: those of `Conv2d`, with `stride`, `padding`, `output_padding` and `dilation` as in
        `functional.conv_transpose2d_forward`. `weight_init` gets the shape of `Conv2d`'s weight, output channels first.

    Shape: `(N, in_channels, H, W)` to `(N, out_channels, OH, OW)`.

    Raises:
        ValueError: if an option is out of range or the groups do not divide the channels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrPair,
        stride: IntOrPair = 1,
        padding: Padding = 0,
        output_padding: IntOrPair = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: IntOrPair = 1,
        *,
        weight_init: Initializer = he_normal,
        rng: np.random.Generator | None = None,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__()
        _check_groups(groups, in_channels, out_channels)
        self.in_channels, self.out_channels = in_channels, out_channels
        kernel = transposed_window(kernel_size, stride, padding, output_padding, dilation).kernel
        self.kernel_size, self.stride, self.padding, self.output_padding = kernel, stride, padding, output_padding
        self.dilation, self.groups = dilation, groups
        inputs, outputs = in_channels // groups, out_channels // groups
        weight = weight_init((out_channels, inputs, *kernel), rng or default_generator())
        weight = weight.reshape(groups, outputs, inputs, *kernel).swapaxes(1, 2)
        self.weight = host_parameter(weight.reshape(in_channels, outputs, *kernel), dtype)
        self.bias = host_parameter(np.zeros(out_channels), dtype) if bias else None

    def extra_repr(self) -> str:
        return _options_repr(self, "stride", "padding", "output_padding", "dilation", "groups")

    def multiply_adds(self, x: Array, y: Array) -> int | None:
        return int(x.size * self.weight.data[0].size)  # each input is multiplied by one filter

    def forward(self, x: Array) -> Array:
        options = {"stride": self.stride, "padding": self.padding, "output_padding": self.output_padding}
        return self._forward(F.conv_transpose2d_forward, x, dilation=self.dilation, groups=self.groups, **options)

    def backward(self, dy: Array, *, input_gradient: bool = True) -> Array | None:
        return self._backward(
            F.conv_transpose2d_input_gradient, F.conv_transpose2d_parameter_gradients, dy, input_gradient
        )


def _check_groups(groups: int, in_channels: int, out_channels: int) -> None:
    if groups < 1 or in_channels % groups or out_channels % groups or min(in_channels, out_channels) < 1:
        raise ValueError(
            f"groups must divide the channels, got groups={groups} for {in_channels} and {out_channels} channels"
        )


def _options_repr(layer: Conv2d | ConvTranspose2d, *options: str) -> str:
    values = "".join(f", {name}={getattr(layer, name)}" for name in ("kernel_size", *options))
    return f"{layer.in_channels}, {layer.out_channels}{values}, bias={layer.bias is not None}"
