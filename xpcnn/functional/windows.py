"""Sliding windows: their options, output sizes, and the pixels that each of their elements covers.

The letters used bare in the kernels:

    N        images in the batch
    C, O     channels of the input and of the output
    H, W     height and width of the input
    KH, KW   height and width of the window (the kernel)
    OH, OW   height and width of the output: the window's positions
    K        rows of the column matrix, C·KH·KW
    P        columns of the column matrix: positions times images

Callers see arrays of shape (N, C, H, W). The kernels work on the same memory as (C, H, W, N), the batch-last layout
(`backend/layout.py`): the column matrix (K, P) is then copied in long contiguous runs, and the product
`weight (O, K) @ columns (K, P)` already has the layout of the output.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import lru_cache
from math import ceil
from typing import Any, NamedTuple, TypeAlias

from ..backend import ELEMENT_WORK, Array, Device, array_namespace, blocks, chain

Pair: TypeAlias = tuple[int, int]
IntOrPair: TypeAlias = int | Sequence[int]
Padding: TypeAlias = int | str | Sequence[int]
Limits: TypeAlias = tuple[float, float]


def pair(value: IntOrPair, name: str, minimum: int) -> Pair:
    """Return an option given as one number for both axes, or as two, as `(height, width)`.

    Args:
        value: one integer or two.
        name: of the option, for the error message.
        minimum: the smallest integer allowed.

    Raises:
        ValueError: if it is not one or two integers, each at least `minimum`.
    """
    values = tuple(value) if isinstance(value, Sequence) else (value, value)
    if len(values) != 2 or not all(isinstance(number, int) and number >= minimum for number in values):
        raise ValueError(f"{name} must be one or two integers of at least {minimum}, got {value!r}")
    return values[0], values[1]


PARTIAL_SUMS = 16 << 20  # bytes: the largest total size of the partial sums of a weight gradient


class Window(NamedTuple):
    """A sliding window: its size and how it moves; made by `make_window`, which checks the options."""

    kernel: Pair
    stride: Pair
    dilation: Pair
    padding: tuple[int, int, int, int]  # top, bottom, left, right

    @lru_cache(maxsize=1024)  # noqa: B019  # the object kept alive is a small tuple
    def output_size(self, height: int, width: int) -> Pair:
        """Return `(OH, OW)`, the number of positions along each axis of a `height` by `width` image.

        Raises:
            ValueError: if the window is larger than the padded image.
        """
        top, bottom, left, right = self.padding
        sizes = (height + top + bottom, width + left + right)
        spans = [(kernel - 1) * dilation + 1 for kernel, dilation in zip(self.kernel, self.dilation, strict=True)]
        if sizes[0] < spans[0] or sizes[1] < spans[1]:
            raise ValueError(
                f"a window spanning {spans[0]}×{spans[1]} does not fit an image of {height}×{width} "
                f"padded to {sizes[0]}×{sizes[1]}"
            )
        return (sizes[0] - spans[0]) // self.stride[0] + 1, (sizes[1] - spans[1]) // self.stride[1] + 1

    @property
    def flipped(self) -> Window:
        """The window that slides over `dy` to give the gradient w.r.t. the input, for stride 1; see `flipped()`."""
        top, bottom, left, right = self.padding
        height, width = ((size - 1) * step for size, step in zip(self.kernel, self.dilation, strict=True))
        return self._replace(padding=(height - top, height - bottom, width - left, width - right))


def make_window(kernel: IntOrPair, stride: IntOrPair = 1, padding: Padding = 0, dilation: IntOrPair = 1) -> Window:
    """Return the window with these options.

    Args:
        kernel: size of the window in pixels, one number or `(KH, KW)`.
        stride: step between positions in pixels, one number or a pair.
        padding: rows and columns of zeros around the image: one number, `(height, width)`, four sides as
            `(left, right, top, bottom)`, `"valid"` for none, or `"same"` for an output as large as the input (stride 1
            only; where the total is odd, the extra row or column goes to the bottom or right).
        dilation: step between the elements of the window in pixels, one number or a pair.

    Raises:
        ValueError: if a number is out of range, or `"same"` is asked for with a stride.
    """
    # Made integers before they reach the cache, to which 1.0 is the same as 1.
    return _checked_window(
        _as_int(kernel, "kernel_size"),
        _as_int(stride, "stride"),
        _as_int(padding, "padding"),
        _as_int(dilation, "dilation"),
    )


def _as_int(value: Any, name: str) -> Any:
    """Return integers of any type as int, also inside a sequence; a string unchanged.

    Raises:
        ValueError: if it is anything else, with the option's name.
    """
    if type(value) is int or type(value) is str:
        return value
    if type(value) is tuple and len(value) == 2 and type(value[0]) is int is type(value[1]):  # a kernel's shape
        return value
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(_as_int(item, name) for item in value)
    try:
        return int(operator.index(value))
    except TypeError:
        raise ValueError(f"{name} must be given in integers, got {value!r}") from None


@lru_cache(maxsize=1024)
def _checked_window(kernel: IntOrPair, stride: IntOrPair, padding: Padding, dilation: IntOrPair) -> Window:
    kernel = pair(kernel, "kernel_size", 1)
    stride = pair(stride, "stride", 1)
    dilation = pair(dilation, "dilation", 1)
    if padding == "same":
        if stride != (1, 1):
            raise ValueError(f'padding="same" needs stride 1, got {stride}')
        total = [(size - 1) * step for size, step in zip(kernel, dilation, strict=True)]
        sides = (total[0] // 2, total[0] - total[0] // 2, total[1] // 2, total[1] - total[1] // 2)
    elif padding == "valid":
        sides = (0, 0, 0, 0)
    elif isinstance(padding, str):
        raise ValueError(f'padding must be numbers, "same" or "valid", got {padding!r}')
    elif isinstance(padding, int) or len(padding) != 4:
        height, width = pair(padding, "padding", 0)
        sides = (height, height, width, width)
    else:
        (left, right), (top, bottom) = pair(padding[:2], "padding", 0), pair(padding[2:], "padding", 0)
        sides = (top, bottom, left, right)
    return Window(kernel, stride, dilation, sides)


def product_work(K: int, O: int, P: int) -> int:
    """Return the work of `(O, K) @ (K, P)` and of copying its columns, in multiply-adds; see `Device.parts`."""
    return K * (O + ELEMENT_WORK) * P


def finish(y: Array, bias: Array | None, limits: Limits | None, device: Device) -> None:
    """Add the bias to a part of a convolution's output and clip it to the limits, in place, while it is in cache.

    Args:
        bias: in a shape that broadcasts to `y`, or None.
        limits: the lowest and highest value of an activation such as ReLU, or None.
    """
    if bias is not None and limits is not None:
        _add_and_clip(y, bias, *limits)
    elif bias is not None:
        y += bias
    elif limits is not None:
        device.xp.clip(y, *limits, out=y)


@chain
def _add_and_clip(y: Array, bias: Array, low: float, high: float) -> None:
    y += bias
    array_namespace(y).clip(y, low, high, out=y)


def kept_array(kept: dict[Any, Any] | None, name: str, make: Callable[[], Array]) -> Array:
    """Return the array that is kept under a name; call `make` for one if there is none, and keep it.

    Args:
        kept: what was computed from a weight alone, or None to keep nothing.
    """
    array = None if kept is None else kept.get(name)
    if array is None:
        array = make()
        if kept is not None:
            kept[name] = array
    return array


def sums_and_cuts(parts: int, most_sums: int, sum_bytes: int) -> tuple[int, int]:
    """Return how many partial sums a weight gradient has, and into how many blocks of channels each is cut.

    Their product is `parts`, a power of two, as the parts of `Device.parts` are. With many channels the partial sums
    would take much memory and be few: then it is the gradient that is cut.

    Args:
        most_sums: how many leave enough positions for each.
        sum_bytes: size of the gradient.
    """
    most = max(1, min(parts, most_sums, PARTIAL_SUMS // sum_bytes))
    sums = 1 << most.bit_length() - 1
    return sums, parts // sums


def add_up(sums: list[Array], device: Device) -> Array:
    """Return the sum of partial sums of one shape, computed in place in the first.

    How many there are follows from shapes alone, and they are added in order: the result has the same bits on any
    number of threads.
    """
    total, *others = sums

    def add(rows: slice) -> None:
        for other in others:
            total[rows] += other[rows]

    device.map(add, blocks(len(total), device.parts(len(others) * total.size * ELEMENT_WORK)))
    return total


def flipped(weight: Array, window: Window, device: Device) -> tuple[Array, Window]:
    """Return the weight and window whose correlation with `dy` is the gradient w.r.t. the input, for stride 1.

    Args:
        weight: `(O, C, KH, KW)`.
        window: of the forward pass, with stride 1.

    Returns:
        the flipped weight `(C, O, KH, KW)`, rotated by 180° with input and output channels swapped, and its window.
    """
    rotated = weight[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)
    return device.xp.ascontiguousarray(rotated), window.flipped


def reach(positions: slice, stride: int, offset: int, size: int) -> tuple[slice, slice]:
    """Return the positions at which an element of the window is inside the image, and the pixels it covers there.

    This is along one axis, of `size` pixels. At each position the element covers the pixel `position·stride + offset`.

    Returns:
        a slice into `positions`, and one into the image, of the same length.
    """
    first = max(positions.start, ceil(-offset / stride))
    last = min(positions.stop - 1, (size - 1 - offset) // stride)
    if last < first:
        return slice(0, 0), slice(0, 0)
    return (
        slice(first - positions.start, last + 1 - positions.start),
        slice(first * stride + offset, last * stride + offset + 1, stride),
    )


def pooling_window(kernel: IntOrPair, stride: IntOrPair | None, padding: Padding, dilation: IntOrPair) -> Window:
    """Return the window of a pooling layer.

    Args:
        kernel, padding, dilation: see `make_window`.
        stride: None for the size of the window.

    Raises:
        ValueError: if an option is out of range, or the padding is more than half the window.
    """
    window = make_window(kernel, kernel if stride is None else stride, padding, dilation)
    (KH, KW), (top, bottom, left, right) = window.kernel, window.padding
    if max(top, bottom) > KH // 2 or max(left, right) > KW // 2:
        raise ValueError(f"padding must be at most half the window, got {padding} for a window of {KH}×{KW}")
    return window


def ceil_mode_window(window: Window, H: int, W: int) -> Window:
    """Return the window padded at the bottom and right so that an `H` by `W` image has the output size of `ceil_mode`.

    As in PyTorch the number of positions is rounded up, but the last one starts inside the image or the padding at the
    top or left.
    """
    (KH, KW), (top, bottom, left, right) = window.kernel, window.padding
    bottom = _ceil_mode_padding(H, top, bottom, KH, window.stride[0], window.dilation[0])
    right = _ceil_mode_padding(W, left, right, KW, window.stride[1], window.dilation[1])
    return window._replace(padding=(top, bottom, left, right))


@lru_cache(maxsize=1024)
def offsets(
    window: Window, OH: int, OW: int, H: int, W: int
) -> tuple[tuple[int, tuple[slice, slice], tuple[slice, slice]], ...]:
    """Return for each element of the window: its index, the positions at which it is inside the image, and the pixels.

    The index is `kh·KW + kw`. The positions are slices of the output's rows and columns, the pixels slices of the
    image's; see `reach`.
    """
    (KH, KW), (top, _, left, _) = window.kernel, window.padding
    result = []
    for kh in range(KH):
        rows, image_rows = reach(slice(0, OH), window.stride[0], kh * window.dilation[0] - top, H)
        for kw in range(KW):
            cols, image_cols = reach(slice(0, OW), window.stride[1], kw * window.dilation[1] - left, W)
            result.append((kh * KW + kw, (rows, cols), (image_rows, image_cols)))
    return tuple(result)


def _ceil_mode_padding(size: int, before: int, after: int, kernel: int, stride: int, dilation: int) -> int:
    span = (kernel - 1) * dilation + 1
    last = ceil((size + before + after - span) / stride)
    if last * stride >= size + before:
        last -= 1  # it would start in the padding at the end
    return last * stride + span - size - before
