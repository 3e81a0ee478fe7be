"""Two-dimensional transposed convolution: the three products of a convolution in other roles.

Its forward pass is the gradient w.r.t. a convolution's input, and its input gradient a convolution's forward pass
(Dumoulin and Visin 2016, chapter 4). So this file adds sizes and checks, and no arithmetic.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

from ..backend import Array, Device, Shape, batch_first, batch_last, device_of, rounded
from . import by_rows, im2col
from .checks import check_arrays, check_dtypes, check_gradient, check_input, refuse_float16
from .windows import IntOrPair, Padding, Pair, Window, make_window, pair


class _Cache(NamedTuple):
    x: Array  # (C, H, W, N)
    weight: Array
    has_bias: bool
    window: Window
    groups: int
    output: Shape  # of the output, (O, OH, OW, N)


def conv_transpose2d_forward(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    stride: IntOrPair = 1,
    padding: Padding = 0,
    output_padding: IntOrPair = 0,
    groups: int = 1,
    dilation: IntOrPair = 1,
) -> tuple[Array, Any]:
    """Return the transposed convolution, the adjoint of `conv2d_forward`: each pixel adds its multiple of the filters.

    Args:
        x: `(N, C, H, W)`.
        weight: `(C, O / groups, KH, KW)`, of the same dtype as `x`; or float32 if `x` is float16, as in
            `conv2d_forward`.
        bias: `(O,)`, or None.
        stride: step between the filters in the output, in pixels.
        padding: rows and columns removed from the sides of the output, in any form that `windows.make_window` takes.
        output_padding: rows and columns added at the bottom and right, one number or a pair, below the stride or the
            dilation. With a stride, outputs of several sizes have a convolution of the input's size; this selects one.
        groups: into how many equal groups the channels are split; group i of the output depends on group i of the
            input only.
        dilation: step between the elements of a filter, in pixels.

    Returns:
        `y (N, O, OH, OW)` with `OH = (H - 1)·stride - 2·padding + dilation·(KH - 1) + 1 + output_padding`, and what
        `conv_transpose2d_backward` needs.

    Raises:
        ValueError: if shapes, dtypes or options do not fit together.
    """
    device = check_input("conv_transpose2d_forward", x, "(N, C, H, W)")
    try:
        window = transposed_window(weight.shape[2:], stride, padding, output_padding, dilation)
        _check(x, weight, bias, groups)
    except AttributeError:
        check_arrays("conv_transpose2d_forward", weight=weight, bias=bias)
        raise
    x = batch_last(x)
    few_channels = by_rows.applies_to_input_gradient(weight, groups, x.shape[3], device)
    size = _output_size(window, *x.shape[1:3])
    y = (by_rows if few_channels else im2col).input_gradient(x, weight, window, groups, size, device, bias)
    return batch_first(y), _Cache(x, weight, bias is not None, window, groups, y.shape)


def conv_transpose2d_backward(
    dy: Array, cache: Any, *, input_gradient: bool = True
) -> tuple[Array | None, Array, Array | None]:
    """Return the gradients w.r.t. the input, weight and bias of `conv_transpose2d_forward`.

    Args:
        dy: gradient w.r.t. the output, `(N, O, OH, OW)`.
        cache: what the forward call returned.
        input_gradient: False to skip the gradient w.r.t. the input, which a network's first layer does not need.

    Returns:
        `dx (N, C, H, W)` or None, `dweight` in the shape of the weight, `dbias (O,)` or None.
    """
    dx = conv_transpose2d_input_gradient(dy, cache) if input_gradient else None
    return dx, *conv_transpose2d_parameter_gradients(dy, cache)


def conv_transpose2d_input_gradient(dy: Array, cache: Any) -> Array:
    """Return `dx (N, C, H, W)` alone, as `conv_transpose2d_backward` does."""
    x, weight, _, window, groups, output = cache
    dy = check_gradient("conv_transpose2d_backward", dy, output, weight.dtype)
    dy = rounded(dy, x.dtype)
    device = device_of(dy)
    return batch_first(
        _algorithm(window, x, weight, groups, device).correlate(dy, weight, None, window, groups, device)
    )


def conv_transpose2d_parameter_gradients(dy: Array, cache: Any) -> tuple[Array, Array | None]:
    """Return `dweight` and `dbias` alone, as `conv_transpose2d_backward` does."""
    x, weight, has_bias, window, groups, output = cache
    dy, device = check_gradient("conv_transpose2d_backward", dy, output, weight.dtype), device_of(dy)
    dbias = device.row_sums(dy.reshape(dy.shape[0], -1))[:, 0] if has_bias else None
    return _algorithm(window, x, weight, groups, device).weight_gradient(dy, x, window, groups, device), dbias


def transposed_window(
    kernel: IntOrPair, stride: IntOrPair, padding: Padding, output_padding: IntOrPair, dilation: IntOrPair
) -> Window:
    """Return the window that slides over the output, one position for each pixel of the input.

    Args: those of `conv_transpose2d_forward`.

    Raises:
        ValueError: if an option is out of range.
    """
    window = make_window(kernel, stride, padding, dilation)
    height, width = pair(output_padding, "output_padding", 0)
    if height >= max(window.stride[0], window.dilation[0]) or width >= max(window.stride[1], window.dilation[1]):
        raise ValueError(
            f"output_padding must be below the stride or the dilation, got {output_padding} "
            f"for stride {window.stride} and dilation {window.dilation}"
        )
    # Output padding adds rows beyond the last position, which is the same as less padding at the bottom.
    top, bottom, left, right = window.padding
    return window._replace(padding=(top, bottom - height, left, right - width))


def _algorithm(window: Window, x: Array, weight: Array, groups: int, device: Device) -> ModuleType:
    return by_rows if by_rows.applies(window, weight, groups, x.shape[3], device) else im2col


def _output_size(window: Window, H: int, W: int) -> Pair:
    top, bottom, left, right = window.padding
    spans = [(size - 1) * step + 1 for size, step in zip(window.kernel, window.dilation, strict=True)]
    OH = (H - 1) * window.stride[0] + spans[0] - top - bottom
    OW = (W - 1) * window.stride[1] + spans[1] - left - right
    if min(OH, OW) < 1:
        raise ValueError(f"padding removes the whole output: images of {H}×{W} would become {OH}×{OW}")
    return OH, OW


def _check(x: Array, weight: Array, bias: Array | None, groups: int) -> None:
    if x.ndim != 4 or weight.ndim != 4:
        raise ValueError(f"expected input (N, C, H, W) and weight (C, O/groups, KH, KW), got {x.shape}, {weight.shape}")
    C, O = weight.shape[0], weight.shape[1] * groups
    if groups < 1 or C % groups:
        raise ValueError(f"groups={groups} does not divide {C} input channels")
    if 0 in weight.shape:
        raise ValueError(f"expected weight (C, O/groups, KH, KW) with sizes of at least 1, got {weight.shape}")
    if x.shape[1] != C or 0 in x.shape:
        expected = f"expected input (N, {C}, H, W) with sizes of at least 1"
        raise ValueError(f"{expected} for weight {weight.shape}, got {x.shape}")
    if bias is not None and bias.shape != (O,):
        raise ValueError(f"expected bias ({O},), got {bias.shape}")
    check_dtypes(x, weight)
    refuse_float16("conv_transpose2d_forward", weight.dtype)
