"""Two-dimensional convolution: the forward and backward pass, and the choice among three algorithms.

im2col (`im2col.py`)      every window
MEC (`mec.py`)            small products: few channels and at least 16 images
Winograd (`winograd.py`)  3×3 windows with stride 1 and many channels
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

from ..backend import Array, Device, Shape, batch_first, batch_last, device_of
from . import im2col, mec, winograd
from .checks import check_arrays, check_gradient, check_input, refuse_float16
from .windows import IntOrPair, Padding, Pair, Window, flipped, make_window


class _Cache(NamedTuple):
    x: Array  # (C, H, W, N)
    weight: Array
    has_bias: bool
    window: Window
    groups: int
    output: Shape  # of the output, (O, OH, OW, N)


def conv2d_forward(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    stride: IntOrPair = 1,
    padding: Padding = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
) -> tuple[Array, Any]:
    """Correlate images with filters, which is what neural networks call convolution.

    Args:
        x: `(N, C, H, W)`.
        weight: `(O, C / groups, KH, KW)`, of the same dtype as `x`.
        bias: `(O,)`, or None.
        stride, padding, dilation: see `windows.make_window`.
        groups: into how many equal groups the channels are split; group i of the output depends on group i of the
            input only.

    Returns:
        `y (N, O, OH, OW)` and what `conv2d_backward` needs.

    Raises:
        TypeError: if an argument is not an array.
        ValueError: if shapes, dtypes or options do not fit together.

    Winograd's algorithm adds and subtracts the pixels of a 6×6 patch before it multiplies them. So a NaN or an infinity
    makes all 16 outputs of each patch around it NaN, where the other algorithms keep it to the windows that cover it. A
    pixel of 10⁶ among ones costs those outputs six digits. Where that matters, `device.winograd_channels = math.inf`
    turns the algorithm off, such as `xpcnn.backend.CPU.winograd_channels = math.inf`: 3×3 layers of many channels then
    take about twice as long.
    """
    device = check_input("conv2d_forward", x, "(N, C, H, W)")
    try:
        window = make_window(weight.shape[2:], stride, padding, dilation)
        _check(x, weight, bias, window, groups)
    except AttributeError:
        check_arrays("conv2d_forward", weight=weight, bias=bias)
        raise
    x = batch_last(x)
    y = _correlate(x, weight, bias, window, groups, device)
    return batch_first(y), _Cache(x, weight, bias is not None, window, groups, y.shape)


def conv2d_backward(dy: Array, cache: Any, *, input_gradient: bool = True) -> tuple[Array | None, Array, Array | None]:
    """Return the gradients w.r.t. the input, weight and bias of `conv2d_forward`.

    Args:
        dy: gradient w.r.t. the output, `(N, O, OH, OW)`.
        cache: what the forward call returned.
        input_gradient: False to skip the gradient w.r.t. the input, which a network's first layer does not need.

    Returns:
        `dx (N, C, H, W)` or None, `dweight` in the shape of the weight, `dbias (O,)` or None.
    """
    dx = conv2d_input_gradient(dy, cache) if input_gradient else None
    return dx, *conv2d_parameter_gradients(dy, cache)


def conv2d_input_gradient(dy: Array, cache: Any) -> Array:
    """Return `dx (N, C, H, W)` alone, as `conv2d_backward` does."""
    x, weight, _, window, groups, output = cache
    dy = check_gradient("conv2d_backward", dy, output, x.dtype)
    refuse_float16("conv2d_backward", x.dtype)
    return batch_first(_input_gradient(dy, weight, window, groups, x.shape[1:3], device_of(dy)))


def conv2d_parameter_gradients(dy: Array, cache: Any) -> tuple[Array, Array | None]:
    """Return `dweight` and `dbias` alone, as `conv2d_backward` does."""
    x, weight, has_bias, window, groups, output = cache
    dy, device = check_gradient("conv2d_backward", dy, output, x.dtype), device_of(dy)
    refuse_float16("conv2d_backward", x.dtype)
    dbias = device.row_sums(dy.reshape(dy.shape[0], -1))[:, 0] if has_bias else None
    return _weight_gradient(x, dy, weight, window, groups, device), dbias


def _correlate(x: Array, weight: Array, bias: Array | None, window: Window, groups: int, device: Device) -> Array:
    """Return `y (O, OH, OW, N)` from `x (C, H, W, N)`."""
    N = x.shape[3]
    size = (*window.output_size(*x.shape[1:3]), N)
    if winograd.applies(window, weight, groups, size, device):
        return winograd.correlate(x, weight, bias, window, device)
    if mec.applies(window, weight, groups, N, device):
        return mec.correlate(x, weight, bias, window, device)
    return im2col.correlate(x, weight, bias, window, groups, device)


def _weight_gradient(x: Array, dy: Array, weight: Array, window: Window, groups: int, device: Device) -> Array:
    """Return the gradient w.r.t. the weight from `x (C, H, W, N)` and `dy (O, OH, OW, N)`."""
    N = x.shape[3]
    if winograd.applies(window, weight, groups, dy.shape[1:], device):
        return winograd.weight_gradient(x, dy, window, device)
    if mec.applies(window, weight, groups, N, device) and window.stride[1] == 1:
        return mec.weight_gradient(x, dy, window, device)
    return im2col.weight_gradient(x, dy, window, groups, device)


def _input_gradient(dy: Array, weight: Array, window: Window, groups: int, size: Pair, device: Device) -> Array:
    """Return `dx (C, H, W, N)`, for an input of `size (H, W)`, from `dy (O, OH, OW, N)`."""
    N = dy.shape[3]
    if winograd.applies(window, weight, groups, dy.shape[1:], device):
        return winograd.input_gradient(dy, weight, window, device)
    if window.stride == (1, 1) and groups == 1:
        (O, C), pixels, positions = weight.shape[:2], prod(size), prod(dy.shape[1:3])
        # With many more pixels than positions, the windows over dy would mostly cover padding.
        small = pixels <= 1.5 * positions and mec.applies(window.flipped, weight, groups, N, device)
        # The columns of dy are written and read; those of dx are also added up, once for each element of the window.
        # So the correlation pays unless dy has many more columns.
        if small or O * pixels <= 1.5 * C * positions + device.launch_bytes / (2 * N * dy.itemsize):
            flipped_weight, flipped_window = flipped(weight, window, device)
            if small:
                return mec.correlate(dy, flipped_weight, None, flipped_window, device)
            return im2col.correlate(dy, flipped_weight, None, flipped_window, 1, device)
    return im2col.input_gradient(dy, weight, window, groups, size, device)


def _check(x: Array, weight: Array, bias: Array | None, window: Window, groups: int) -> None:
    if x.ndim != 4 or weight.ndim != 4:
        raise ValueError(f"expected input (N, C, H, W) and weight (O, C/groups, KH, KW), got {x.shape}, {weight.shape}")
    O, C = weight.shape[0], weight.shape[1] * groups
    if groups < 1 or O % groups:
        raise ValueError(f"groups={groups} does not divide {O} output channels")
    if 0 in weight.shape:
        raise ValueError(f"expected weight (O, C/groups, KH, KW) with sizes of at least 1, got {weight.shape}")
    if x.shape[1] != C or not len(x):
        expected = f"expected input (N, {C}, H, W) with N of at least 1"
        raise ValueError(f"{expected} for weight {weight.shape} and groups={groups}, got {x.shape}")
    window.output_size(*x.shape[2:])  # raises if the window does not fit the image
    if bias is not None and bias.shape != (O,):
        raise ValueError(f"expected bias ({O},), got {bias.shape}")
    if x.dtype != weight.dtype:
        raise ValueError(f"expected input of the weight's dtype {weight.dtype}, got {x.dtype}")
