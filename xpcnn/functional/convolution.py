"""Two-dimensional convolution: the forward and backward pass, and the choice among the algorithms.

im2col (`im2col.py`)        every window
product (`pointwise.py`)    1×1 windows
dilation (`dilation.py`)    dilated windows, as ones without dilation
MEC (`mec.py`)              small products: few channels and at least 16 images
Winograd (`winograd.py`)    3×3 windows with stride 1 and many channels
rows (`by_rows.py`)         depthwise and other groups of few channels, narrow layers, few images
depthwise (`depthwise.py`)  one small image of many channels

Of mixed precision (see `Device.matmul`) dilation, MEC, Winograd and depthwise know nothing: they need a uniform dtype.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, prod
from typing import Any, NamedTuple, TypeAlias

from ..backend import (
    Array,
    Device,
    Shape,
    array_namespace,
    batch_first,
    batch_last,
    device_of,
    device_or_none,
    rounded,
)
from . import by_rows, depthwise, dilation, im2col, mec, pointwise, winograd
from .checks import check_arrays, check_dtypes, check_gradient, check_input, refuse_float16
from .windows import IntOrPair, Limits, Padding, Pair, Window, flipped, make_window

Kept: TypeAlias = dict[Any, Any]  # arrays by name; functions by device, shape and dtype of their input
_MOST_KEPT = 16  # entries: beyond them, nothing is prepared for further shapes


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
    limits: Limits | None = None,
) -> tuple[Array, Any]:
    """Correlate images with filters, which is what neural networks call convolution.

    Args:
        x: `(N, C, H, W)`.
        weight: `(O, C / groups, KH, KW)`, of the same dtype as `x`; or float32 if `x` is float16, for mixed precision:
            see `Device.matmul`. The output, and all gradients, are of the weight's dtype.
        bias: `(O,)`, or None.
        stride, padding, dilation: see `windows.make_window`.
        groups: into how many equal groups the channels are split; group i of the output depends on group i of the
            input only.
        limits: what the output is clipped to, `(0, inf)` for a ReLU after it; None for nothing. The backward pass is
            that of the convolution alone.

    Returns:
        `y (N, O, OH, OW)` and what `conv2d_backward` needs.

    Raises:
        TypeError: if an argument is not an array.
        ValueError: if shapes, dtypes or options do not fit together.

    Winograd's algorithm adds and subtracts the pixels of a 6×6 patch before it multiplies them. So a NaN or an infinity
    makes all outputs of each patch around it NaN, 16 or 9 of them, where the other algorithms keep it to the windows
    that cover it. A pixel of 10⁶ among ones costs those outputs six digits. Where that matters,
    `device.winograd_channels = math.inf` turns the algorithm off, such as
    `xpcnn.backend.CPU.winograd_channels = math.inf`: 3×3 layers of many channels then take about twice as long.
    """
    window = _checked_window(x, weight, bias, stride, padding, dilation, groups)
    x = batch_last(x)
    y = _correlate(x, weight, bias, window, groups, device_of(x), limits)
    return batch_first(y), _Cache(x, weight, bias is not None, window, groups, y.shape)


def conv2d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    stride: IntOrPair = 1,
    padding: Padding = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
    limits: Limits | None = None,
    kept: Kept | None = None,
) -> Array:
    """Return the output of `conv2d_forward` without what a backward pass needs: for inference.

    Args:
        x, weight, bias, stride, padding, dilation, groups: those of `conv2d_forward`.
        limits: the lowest and highest value of the output, beyond which it is clipped while it is in cache: `(0, inf)`
            for a ReLU after the convolution.
        kept: a dictionary, at first empty, that belongs to all other arguments but `x`: what is computed from them
            alone is kept there between calls.
    """
    device = device_or_none(x)
    prepared = None if kept is None or device is None else kept.get((device, x.shape, x.dtype))
    if prepared is not None:
        return batch_first(prepared(batch_last(x)))
    window = _checked_window(x, weight, bias, stride, padding, dilation, groups)
    return batch_first(_correlate(batch_last(x), weight, bias, window, groups, device_of(x), limits, kept))


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
    dy = check_gradient("conv2d_backward", dy, output, weight.dtype)
    refuse_float16("conv2d_backward", weight.dtype)
    dy = rounded(dy, x.dtype)
    return batch_first(_input_gradient(dy, weight, window, groups, x.shape[1:3], device_of(dy)))


def conv2d_parameter_gradients(dy: Array, cache: Any) -> tuple[Array, Array | None]:
    """Return `dweight` and `dbias` alone, as `conv2d_backward` does."""
    x, weight, has_bias, window, groups, output = cache
    dy, device = check_gradient("conv2d_backward", dy, output, weight.dtype), device_of(dy)
    refuse_float16("conv2d_backward", weight.dtype)
    dbias = device.row_sums(dy.reshape(dy.shape[0], -1))[:, 0] if has_bias else None
    return _weight_gradient(x, dy, weight, window, groups, device), dbias


def _correlate(
    x: Array,
    weight: Array,
    bias: Array | None,
    window: Window,
    groups: int,
    device: Device,
    limits: Limits | None = None,
    kept: Kept | None = None,
) -> Array:
    """Return `y (O, OH, OW, N)` from `x (C, H, W, N)`."""
    if pointwise.applies(window, groups):
        if kept is not None:
            return _prepare(pointwise.prepare, x, kept, weight, bias, window, device, limits)(x)
        return pointwise.correlate(x, weight, bias, window, device, limits)
    size, uniform = window.output_size(*x.shape[1:3]), x.dtype == weight.dtype
    if uniform and _without_dilation(window, weight, groups, (*size, x.shape[3]), device):
        small = dilation.small_window(window, x.shape[1:3])
        kept = None if kept is None else kept.setdefault("without dilation", {})
        y = _correlate(dilation.split(x, window, device), weight, bias, small, groups, device, limits, kept)
        return dilation.join(y, _unpadded(window), size, device)
    N = x.shape[3]
    if uniform and depthwise.applies(x, weight, groups, window, device):
        return depthwise.correlate(x, weight, bias, window, device, limits, kept)
    few_channels = by_rows.applies(window, weight, groups, N, device)
    if few_channels and groups > 1:
        return by_rows.correlate(x, weight, bias, window, groups, device, limits, kept)
    if uniform and winograd.applies(window, weight, groups, (*size, N), device, kept=kept is not None):
        options = limits, kept if groups == 1 else None
        return _by_groups(winograd.correlate, groups, (x, weight, bias), window, device, *options)
    if uniform and mec.applies(window, weight, groups, N, device):
        return mec.correlate(x, weight, bias, window, device, limits)
    if groups == 1 and by_rows.applies_to_few_images(weight, (*size, N), device):
        if kept is not None:
            return _prepare(by_rows.prepare, x, kept, weight, bias, window, device, limits)(x)
        few_channels = True
    if few_channels:
        return by_rows.correlate(x, weight, bias, window, groups, device, limits, kept)
    return im2col.correlate(x, weight, bias, window, groups, device, limits)


def _prepare(
    prepare: Callable[..., Callable[[Array], Array]], x: Array, kept: Kept, *arguments: Any
) -> Callable[[Array], Array]:
    """Return what `prepare` returns for the shape of `x (C, H, W, N)`; it is kept if there is room."""
    compute = prepare(x.shape, *arguments)
    if len(kept) < _MOST_KEPT:
        kept[device_of(x), (x.shape[3], *x.shape[:3]), x.dtype] = compute
    return compute


def _weight_gradient(x: Array, dy: Array, weight: Array, window: Window, groups: int, device: Device) -> Array:
    """Return the gradient w.r.t. the weight from `x (C, H, W, N)` and `dy (O, OH, OW, N)`."""
    if pointwise.applies(window, groups):
        return pointwise.weight_gradient(x, dy, window, device)
    uniform = x.dtype == dy.dtype
    if uniform and _without_dilation(window, weight, groups, dy.shape[1:], device):
        small = dilation.small_window(window, x.shape[1:3])
        images, dy_images = dilation.split(x, window, device), dilation.split(dy, _unpadded(window), device)
        return _weight_gradient(images, dy_images, weight, small, groups, device)
    N = x.shape[3]
    few_channels = by_rows.applies(window, weight, groups, N, device)
    if few_channels and groups > 1:
        return by_rows.weight_gradient(x, dy, window, groups, device)
    if uniform and winograd.applies(window, weight, groups, dy.shape[1:], device):
        return _by_groups(winograd.weight_gradient, groups, (x, dy), window, device)
    if uniform and mec.applies(window, weight, groups, N, device) and window.stride[1] == 1:
        return mec.weight_gradient(x, dy, window, device)
    if few_channels:
        return by_rows.weight_gradient(x, dy, window, groups, device)
    return im2col.weight_gradient(x, dy, window, groups, device)


def _input_gradient(dy: Array, weight: Array, window: Window, groups: int, size: Pair, device: Device) -> Array:
    """Return `dx (C, H, W, N)`, for an input of `size (H, W)`, from `dy (O, OH, OW, N)`."""
    if pointwise.applies(window, groups):
        return pointwise.input_gradient(dy, weight, window, size, device)
    uniform = dy.dtype == weight.dtype
    if uniform and _without_dilation(window, weight, groups, dy.shape[1:], device):
        small, smaller = dilation.small_window(window, size), dilation.small_size(window, size)
        dx = _input_gradient(dilation.split(dy, _unpadded(window), device), weight, small, groups, smaller, device)
        return dilation.join(dx, window, size, device)
    N = dy.shape[3]
    few_channels = by_rows.applies_to_input_gradient(weight, groups, N, device)
    if few_channels and groups > 1:
        return by_rows.input_gradient(dy, weight, window, groups, size, device)
    if uniform and winograd.applies(window, weight, groups, dy.shape[1:], device):
        return _by_groups(winograd.input_gradient, groups, (dy, weight), window, device)
    if window.stride == (1, 1) and groups == 1:
        (O, C), pixels, positions = weight.shape[:2], prod(size), prod(dy.shape[1:3])
        # With many more pixels than positions, the windows over dy would mostly cover padding.
        by_mec = uniform and pixels <= 1.5 * positions and mec.applies(window.flipped, weight, groups, N, device)
        # The columns of dy are written and read; those of dx are also added up, if not in one pass, then once for each
        # element of the window. So the correlation pays unless dy has many more columns.
        few_columns = O * pixels <= 1.5 * C * positions + device.launch_bytes / (2 * N * dy.itemsize)
        if device.adds_windows:
            few_columns = O * pixels < C * positions
        if by_mec or (few_columns and not few_channels):
            flipped_weight, flipped_window = flipped(weight, window, device)
            if by_mec:
                return mec.correlate(dy, flipped_weight, None, flipped_window, device)
            return im2col.correlate(dy, flipped_weight, None, flipped_window, 1, device)
    if few_channels:
        return by_rows.input_gradient(dy, weight, window, groups, size, device)
    return im2col.input_gradient(dy, weight, window, groups, size, device)


def _without_dilation(window: Window, weight: Array, groups: int, size: tuple[int, int, int], device: Device) -> bool:
    """Return whether a dilated convolution is faster without dilation, on images taken apart; see `dilation.py`.

    Args:
        size: of the output, `(OH, OW, N)`.
    """
    (DH, DW), (OH, OW, N) = window.dilation, size
    if DH == DW == 1 or window.stride != (1, 1) or min(window.padding) < 0:
        return False
    if mec.applies(window, weight, groups, N, device):  # it takes any dilation along the height
        return False
    small = dilation.small_window(window, (OH, OW))
    smaller = ceil(OH / DH), ceil(OW / DW), N * DH * DW
    by_winograd = winograd.applies(small, weight, groups, smaller, device)
    return by_winograd or mec.applies(small, weight, groups, smaller[2], device)


def _unpadded(window: Window) -> Window:
    return window._replace(padding=(0, 0, 0, 0))


def _checked_window(
    x: Array,
    weight: Array,
    bias: Array | None,
    stride: IntOrPair,
    padding: Padding,
    dilation: IntOrPair,
    groups: int,
) -> Window:
    """Return the window of a convolution, after checking its arguments."""
    check_input("conv2d_forward", x, "(N, C, H, W)")
    try:
        window = make_window(weight.shape[2:], stride, padding, dilation)
        _check(x, weight, bias, window, groups)
    except AttributeError:
        check_arrays("conv2d_forward", weight=weight, bias=bias)
        raise
    return window


def _by_groups(function: Callable[..., Array], groups: int, arrays: tuple[Array | None, ...], *others: Any) -> Array:
    """Return what `function(*arrays, *others)` returns for the arrays of each group, along the first axis."""
    if groups == 1:
        return function(*arrays, *others)
    split = [[None] * groups if array is None else array.reshape(groups, -1, *array.shape[1:]) for array in arrays]
    results = [function(*(array[g] for array in split), *others) for g in range(groups)]
    return array_namespace(results[0]).concatenate(results)


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
    check_dtypes(x, weight)
