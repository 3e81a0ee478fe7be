"""Average pooling: under a sliding window, to a given output size (adaptive), and over the whole image."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..backend import ELEMENT_WORK, Array, Device, Shape, batch_first, batch_last, blocks, device_of
from .checks import check_gradient, check_images, check_input
from .planes import make_axes, piece_slices, pooling_work, uses_planes, window_adder, window_reducer
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
    side_by_side = axes is None and _side_by_side(window, (OH, OW), (H, W))

    def pool(channels: slice) -> None:
        if side_by_side:
            for _, pieces in piece_slices(channels, x, device):
                for piece in pieces:
                    _write_block_means(x[piece], y[piece], device)
            return
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

    work = pooling_work(window, x.size, y.size, on_planes=axes is not None)
    device.map(pool, blocks(C, device.parts(work)))
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
    side_by_side = axes is None and _side_by_side(window, (OH, OW), (H, W))

    def scatter(channels: slice) -> None:
        if side_by_side:
            for _, pieces in piece_slices(channels, dx, device):
                for piece in pieces:
                    _spread_over_blocks(dy[piece], dx[piece], device)
            return
        if axes is not None:
            for shape, pieces in piece_slices(channels, dx, device):
                per_pixel, add = window_adder(axes, shape, dy.dtype, device)
                for piece in pieces:
                    device.xp.divide(dy[piece], counts, out=per_pixel)
                    add(dx[piece])
            return
        per_pixel = dy[channels] / counts
        dx[channels] = 0
        for _, (rows, cols), (image_rows, image_cols) in offsets(window, OH, OW, H, W):
            dx[channels, image_rows, image_cols] += per_pixel[:, rows, cols]

    work = pooling_work(window, dx.size, dy.size, on_planes=axes is not None)
    device.map(scatter, blocks(C, device.parts(work)))
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
    y = device.empty((C, OH, OW, N), x.dtype)
    even = H % OH == W % OW == 0

    def pool(channels: slice) -> None:
        if even:
            _write_block_means(x[channels], y[channels], device)
            return
        row_means = device.scratch((channels.stop - channels.start, OH, W, N), x.dtype, "rows")
        for oh, rows in enumerate(_spans(H, OH)):
            device.xp.mean(x[channels, rows], axis=1, out=row_means[:, oh])
        for ow, cols in enumerate(_spans(W, OW)):
            device.xp.mean(row_means[:, :, cols], axis=2, out=y[channels, :, ow])

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
    dx = device.empty((C, H, W, N), dy.dtype)
    even = H % OH == W % OW == 0

    def scatter(channels: slice) -> None:
        if even:
            _spread_over_blocks(dy[channels], dx[channels], device)
            return
        row_gradients = device.scratch((channels.stop - channels.start, OH, W, N), dy.dtype, "rows")
        row_gradients[...] = 0
        for ow, cols in enumerate(_spans(W, OW)):
            row_gradients[:, :, cols] += dy[channels, :, ow : ow + 1] / (cols.stop - cols.start)
        dx[channels] = 0
        for oh, rows in enumerate(_spans(H, OH)):
            dx[channels, rows] += row_gradients[:, oh : oh + 1] / (rows.stop - rows.start)

    device.map(scatter, blocks(C, device.parts(2 * dx.size * ELEMENT_WORK)))
    return batch_first(dx)


def global_avg_pool2d_forward(x: Array) -> tuple[Array, Any]:
    """Return each channel's mean over the image, `(N, C)`, and what `global_avg_pool2d_backward` needs.

    Args:
        x: `(N, C, H, W)`.
    """
    device = check_input("global_avg_pool2d_forward", x, "(N, C, H, W)")
    check_images(x)
    x = batch_last(x)
    C, H, W, N = x.shape
    return device.column_means(x.reshape(C, H * W, N))[:, 0].T, (C, H, W, N, x.dtype)


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
    device.as_runs(dx)[...] = device.as_runs((dy / (H * W)).reshape(C, 1, 1, N))
    return batch_first(dx)


def _write_block_means(x: Array, y: Array, device: Device) -> None:
    """Write to `y (C, OH, OW, N)` the means over equal rectangles of `x (C, H, W, N)` that lie side by side."""
    (_, H, W, N), (_, OH, OW, _) = x.shape, y.shape
    means = device.column_means(x.reshape(-1, H // OH, W * N))
    y[...] = device.column_means(means.reshape(-1, W // OW, N)).reshape(y.shape)


def _spread_over_blocks(dy: Array, dx: Array, device: Device) -> None:
    """Write to `dx (C, H, W, N)` the gradient of such means, from `dy (C, OH, OW, N)`."""
    (C, OH, OW, N), (_, H, W, _) = dy.shape, dx.shape
    per_pixel = dy / (H // OH * (W // OW))
    rows = device.scratch((C * OH, OW, W // OW, N), dy.dtype, "rows")
    device.as_runs(rows)[...] = device.as_runs(per_pixel.reshape(C * OH, OW, 1, N))
    dx.reshape(C * OH, H // OH, W * N)[...] = rows.reshape(C * OH, 1, W * N)


def _side_by_side(window: Window, positions: Pair, size: Pair) -> bool:
    """Return whether each pixel is in one window."""
    covered = positions[0] * window.kernel[0], positions[1] * window.kernel[1]
    return window.kernel == window.stride and not any(window.padding) and covered == size


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
