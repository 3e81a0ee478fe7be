"""Average pooling: under a sliding window, to a given output size (adaptive), and over the whole image."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..backend import ELEMENT_WORK, Array, Device, Shape, batch_first, batch_last, blocks, device_of
from .checks import check_gradient, check_images, check_input
from .planes import make_axes, piece_slices, uses_planes, window_adder, window_reducer
from .windows import IntOrPair, Padding, Pair, Window, ceil_mode_window, offsets, pair, pooling_window


class _Cache(NamedTuple):
    window: Window
    counts: Array | int  # number of values in each mean: one number, or (OH, OW, N)
    size: Pair  # (H, W)
    shape: Shape  # of the output, (C, OH, OW, N)
    dtype: Any


def avg_pool2d_forward(
    x: Array,
    kernel_size: IntOrPair,
    *,
    stride: IntOrPair | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> tuple[Array, Any]:
    """Return the mean under each position of a window.

    Args:
        x: `(N, C, H, W)`.
        kernel_size: height and width of the window, one number or a pair.
        stride: step between positions; None for the size of the window.
        padding: rows and columns of zeros around the image; at most half the window.
        ceil_mode: whether the number of positions is rounded up: see `windows.ceil_mode_window`.
        count_include_pad: whether the zeros of the padding count as values in the mean. The part of a window beyond
            the padding, in `ceil_mode`, never counts.

    Returns:
        `y (N, C, OH, OW)` and what `avg_pool2d_backward` needs.

    Raises:
        ValueError: if the shape or an option does not fit.
    """
    device = check_input("avg_pool2d_forward", x, "(N, C, H, W)", float16=False)
    check_images(x)
    window = pooling_window(kernel_size, stride, padding, 1)
    counted = window.padding if count_include_pad else (0, 0, 0, 0)
    x = batch_last(x)
    C, H, W, N = x.shape
    if ceil_mode:
        window = ceil_mode_window(window, H, W)
    OH, OW = window.output_size(H, W)
    counts = _counts(window, (OH, OW), (H, W), counted, N, device, x.dtype)
    y = device.empty((C, OH, OW, N), x.dtype)
    axes = make_axes(window, H, W) if uses_planes(window, x, device) else None

    def pool(channels: slice) -> None:
        if axes is not None:
            for shape, pieces in piece_slices(channels, x, device):
                reduce = window_reducer(device.xp.add, axes, shape, x.dtype, 0, device)
                for piece in pieces:
                    device.xp.divide(reduce(x[piece]), counts, out=y[piece])
            return
        total = y[channels]
        whole = not any(window.padding)  # each element of the window is inside the image at all positions
        if not whole:
            total[...] = 0
        for number, (rows, cols), (image_rows, image_cols) in offsets(window, OH, OW, H, W):
            if whole and number == 0:
                total[...] = x[channels, image_rows, image_cols]
            else:
                total[:, rows, cols] += x[channels, image_rows, image_cols]
        total /= counts

    device.map(pool, blocks(C, device.parts(_work(window, y))))
    return batch_first(y), _Cache(window, counts, (H, W), y.shape, y.dtype)


def avg_pool2d_backward(dy: Array, cache: Any) -> Array:
    """Return `dx (N, C, H, W)`: each gradient is divided evenly among the pixels of its window.

    Args:
        dy: gradient w.r.t. the output, `(N, C, OH, OW)`.
        cache: what the forward call returned.
    """
    window, counts, (H, W), shape, dtype = cache
    dy = check_gradient("avg_pool2d_backward", dy, shape, dtype)
    device = device_of(dy)
    C, OH, OW, N = dy.shape
    dx = device.empty((C, H, W, N), dy.dtype)
    axes = make_axes(window, H, W) if uses_planes(window, dx, device) else None
    covered = OH * window.kernel[0], OW * window.kernel[1]
    once = window.kernel == window.stride and not any(window.padding) and covered == (H, W)  # each pixel in one window

    def scatter(channels: slice) -> None:
        if axes is not None:
            for shape, pieces in piece_slices(channels, dx, device):
                per_pixel, add = window_adder(axes, shape, dy.dtype, device)
                for piece in pieces:
                    device.xp.divide(dy[piece], counts, out=per_pixel)
                    add(dx[piece])
            return
        per_pixel = dy[channels] / counts
        if not once:
            dx[channels] = 0
        for _, (rows, cols), (image_rows, image_cols) in offsets(window, OH, OW, H, W):
            if once:
                dx[channels, image_rows, image_cols] = per_pixel
            else:
                dx[channels, image_rows, image_cols] += per_pixel[:, rows, cols]

    device.map(scatter, blocks(C, device.parts(_work(window, dy))))
    return batch_first(dx)


def adaptive_avg_pool2d_forward(x: Array, output_size: IntOrPair) -> tuple[Array, Any]:
    """Return the means over a grid of `output_size` rectangles, as PyTorch defines it.

    Rectangle i of OH covers the rows from `⌊i·H / OH⌋` up to, but not including, `⌈(i + 1)·H / OH⌉`, and likewise the
    columns. Neighbours overlap where OH does not divide H.

    Args:
        x: `(N, C, H, W)`.
        output_size: `OH` and `OW`, one number or a pair.

    Returns:
        `y (N, C, OH, OW)` and what `adaptive_avg_pool2d_backward` needs.

    Raises:
        ValueError: if the shape or an option does not fit.
    """
    device = check_input("adaptive_avg_pool2d_forward", x, "(N, C, H, W)")
    check_images(x)
    OH, OW = pair(output_size, "output_size", 1)
    x = batch_last(x)
    C, H, W, N = x.shape
    row_means = device.empty((C, OH, W, N), x.dtype)
    y = device.empty((C, OH, OW, N), x.dtype)

    def pool(channels: slice) -> None:
        for oh, rows in enumerate(_spans(H, OH)):
            device.xp.mean(x[channels, rows], axis=1, out=row_means[channels, oh])
        for ow, cols in enumerate(_spans(W, OW)):
            device.xp.mean(row_means[channels, :, cols], axis=2, out=y[channels, :, ow])

    device.map(pool, blocks(C, device.parts(2 * x.size * ELEMENT_WORK)))
    return batch_first(y), (H, W, y.shape, y.dtype)


def adaptive_avg_pool2d_backward(dy: Array, cache: Any) -> Array:
    """Return `dx (N, C, H, W)`: each gradient is divided evenly among the pixels of its rectangle.

    Args:
        dy: gradient w.r.t. the output, `(N, C, OH, OW)`.
        cache: what the forward call returned.
    """
    H, W, *output = cache
    dy = check_gradient("adaptive_avg_pool2d_backward", dy, *output)
    device = device_of(dy)
    C, OH, OW, N = dy.shape
    row_gradients = device.empty((C, OH, W, N), dy.dtype)
    dx = device.empty((C, H, W, N), dy.dtype)

    def scatter(channels: slice) -> None:
        row_gradients[channels] = 0
        for ow, cols in enumerate(_spans(W, OW)):
            row_gradients[channels, :, cols] += dy[channels, :, ow : ow + 1] / (cols.stop - cols.start)
        dx[channels] = 0
        for oh, rows in enumerate(_spans(H, OH)):
            dx[channels, rows] += row_gradients[channels, oh : oh + 1] / (rows.stop - rows.start)

    device.map(scatter, blocks(C, device.parts(2 * dx.size * ELEMENT_WORK)))
    return batch_first(dx)


def global_avg_pool2d_forward(x: Array) -> tuple[Array, Any]:
    """Return each channel's mean over the image, `(N, C)`, and what `global_avg_pool2d_backward` needs.

    Args:
        x: `(N, C, H, W)`.
    """
    check_input("global_avg_pool2d_forward", x, "(N, C, H, W)")
    check_images(x)
    x = batch_last(x)
    C, H, W, N = x.shape
    return x.reshape(C, H * W, N).mean(axis=1).T, (C, H, W, N, x.dtype)


def global_avg_pool2d_backward(dy: Array, cache: Any) -> Array:
    """Return `dx (N, C, H, W)`: each gradient is divided evenly among the pixels of its channel.

    Args:
        dy: gradient w.r.t. the output, `(N, C)`.
        cache: what the forward call returned.
    """
    C, H, W, N, dtype = cache
    dy = check_gradient("global_avg_pool2d_backward", dy, (C, N), dtype)
    device = device_of(dy)
    dx = device.empty((C, H, W, N), dy.dtype)
    dx[...] = (dy / (H * W)).reshape(C, 1, 1, N)
    return batch_first(dx)


def _work(window: Window, y: Array) -> int:
    """Return the work of adding up the values under each position of a window; see `Device.parts`."""
    size: int = y.size
    return 2 * size * window.kernel[0] * window.kernel[1] * ELEMENT_WORK


def _spans(size: int, count: int) -> list[slice]:
    """Return the rows (or columns) that each rectangle of the grid covers."""
    return [slice(size * i // count, -(-size * (i + 1) // count)) for i in range(count)]


def _counts(
    window: Window, positions: Pair, size: Pair, counted: Shape, images: int, device: Device, dtype: Any
) -> Array | int:
    """Return the number of values in each window's mean: one number if it is always the same, else `(OH, OW, N)`.

    Args:
        counted: how many rows and columns of padding count as values: top, bottom, left, right.
    """

    def along(axis: int) -> list[int]:
        starts = [i * window.stride[axis] - window.padding[2 * axis] for i in range(positions[axis])]
        first, last = -counted[2 * axis], size[axis] + counted[2 * axis + 1]
        return [min(start + window.kernel[axis], last) - max(start, first) for start in starts]

    rows, cols = along(0), along(1)
    if len({*rows}) == len({*cols}) == 1:
        return rows[0] * cols[0]
    # Repeated for each image, so that inner loops are long.
    repeated = device.asarray([count for count in cols for _ in range(images)], dtype).reshape(len(cols), images)
    return device.asarray(rows, dtype)[:, None, None] * repeated
