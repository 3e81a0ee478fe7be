"""Windows sliding over images: output sizes, padding, im2col and col2im.

The letters used bare in the kernels:

    N        images in the batch
    C, O     channels of the input and of the output
    H, W     height and width of the input
    KH, KW   height and width of the window (the kernel)
    OH, OW   height and width of the output: the window's positions
    K        rows of the column matrix, C·KH·KW
    P        columns of the column matrix: positions times images

Arrays that a caller sees have the shape (N, C, H, W). The kernels see the same memory as (C, H, W, N), made by
`backend.batch_last`: the column matrix (K, P) then comes from long contiguous runs, `weight (O, K) @ columns (K, P)`
already has the layout of the output, and whatever is done per channel runs along contiguous rows.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import lru_cache
from math import ceil
from typing import Any, NamedTuple, TypeAlias

from ..backend import Array, Device, blocks, device_of

Pair: TypeAlias = tuple[int, int]
IntOrPair: TypeAlias = int | Sequence[int]
Padding: TypeAlias = int | str | Sequence[int]


def pair(value: IntOrPair, name: str, minimum: int) -> Pair:
    """Return one number for both axes, or two numbers, as `(height, width)`.

    Raises:
        ValueError: if there are not one or two integers, each at least `minimum`.
    """
    values = tuple(value) if isinstance(value, Sequence) else (value, value)
    if len(values) != 2 or not all(isinstance(number, int) and number >= minimum for number in values):
        raise ValueError(f"{name} must be one or two integers of at least {minimum}, got {value!r}")
    return values[0], values[1]


class Window(NamedTuple):
    """A window and how it moves; made by `window()`, which checks the values."""

    kernel: Pair
    stride: Pair
    dilation: Pair
    padding: tuple[int, int, int, int]  # top, bottom, left, right

    @lru_cache(maxsize=1024)  # noqa: B019  # of a tuple, so that there is nothing to be kept alive
    def output_size(self, height: int, width: int) -> Pair:
        """Return `(OH, OW)`, the number of positions along each axis.

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
    def turned(self) -> Window:
        """The window over the gradient by the output that gives the gradient by the input, where this moves by 1."""
        top, bottom, left, right = self.padding
        height, width = ((size - 1) * step for size, step in zip(self.kernel, self.dilation, strict=True))
        return self._replace(padding=(height - top, height - bottom, width - left, width - right))


def window(kernel: IntOrPair, stride: IntOrPair = 1, padding: Padding = 0, dilation: IntOrPair = 1) -> Window:
    """Return the window described in the field's usual terms.

    Args:
        kernel: size of the window, one number or `(KH, KW)`.
        stride: step between positions, one number or a pair.
        padding: zeros put around the image: one number, `(height, width)`, four sides as `(left, right, top, bottom)`,
            `"valid"` for none, or `"same"` for an output as large as the input (stride 1 only; where the sum is odd
            the extra row or column goes to the bottom or right).
        dilation: step between the elements of the window, one number or a pair.

    Raises:
        ValueError: if a number is out of range, or `"same"` is asked for with a stride.
    """
    return _window(_plain(kernel), _plain(stride), _plain(padding), _plain(dilation))


def _plain(value: Any) -> Any:
    """Return integers of any type as int, also inside a sequence; whatever else is left to be refused by name."""
    if type(value) is int:  # nearly always, and answered faster than what follows
        return value
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(_plain(item) for item in value)
    return operator.index(value) if hasattr(value, "__index__") else value


@lru_cache(maxsize=1024)
def _window(kernel: IntOrPair, stride: IntOrPair, padding: Padding, dilation: IntOrPair) -> Window:
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


class Tile(NamedTuple):
    """A box of output positions and images whose columns are lowered and multiplied together."""

    rows: slice
    cols: slice
    images: slice

    @property
    def shape(self) -> tuple[int, int, int]:
        """How many rows, columns and images the box holds."""
        return tuple(part.stop - part.start for part in self)

    def span(self, OW: int, N: int) -> slice | None:
        """Return where the tile's columns lie in the row (OH·OW·N) of a channel, or None if not in one piece."""
        rows, cols, images = self.shape
        if images < N or (cols < OW and rows > 1):
            return None
        start = (self.rows.start * OW + self.cols.start) * N
        return slice(start, start + rows * cols * images)


@lru_cache(maxsize=1024)
def tiles(OH: int, OW: int, N: int, bytes_per_position: int, tile_bytes: int, at_least: int) -> tuple[Tile, ...]:
    """Cut the positions of all images into tiles, in order, from their number alone.

    Whole rows of all images if they fit, since these are contiguous; else parts of a row; else some images only.

    Args:
        bytes_per_position: the size of the columns of one position of one image.
        tile_bytes: the size of the columns that a tile may have.
        at_least: into how many tiles to cut where the number of rows allows it.
    """
    position_budget = max(1, tile_bytes // bytes_per_position)
    images = min(N, max(16, position_budget))
    cols = min(OW, max(1, position_budget // images))
    rows = 1 if images < N or cols < OW else max(1, position_budget // (OW * N))
    return tuple(
        Tile(row, col, image)
        for row in blocks(OH, max(at_least, ceil(OH / rows)))
        for col in blocks(OW, ceil(OW / cols))
        for image in blocks(N, ceil(N / images))
    )


def share_count(K: int, O: int, P: int, device: Device) -> int:
    """Return into how many shares a product `(O, K) @ (K, P)` and its lowering are cut."""
    # A small one stays in one piece: to wake another thread would cost more than it saves.
    return 1 if K * (O + 16) * P < 1 << 25 else device.task_count


def add_up(shares: list[Array]) -> Array:
    """Return the sum of what the shares of a product came to, in the memory of the first.

    The shares are cut and summed in an order that follows from shapes alone: the same bits on any number of threads.
    """
    total, *others = shares
    for other in others:
        total += other
    return total


def turned(weight: Array, window: Window) -> tuple[Array, Window]:
    """Return the weight `(C, O, KH, KW)` and window whose correlation with `dy` is the gradient by the input.

    The filters turned about, in and out exchanged; see `Window.turned`.
    """
    about = weight[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)
    return device_of(weight).xp.ascontiguousarray(about), window.turned


def im2col(x: Array, window: Window, tile: Tile, device: Device) -> Array:
    """Lower the patches of an image under one tile to the columns of a matrix, in scratch memory.

    Args:
        x: channel-major image `(C, H, W, N)`, contiguous.

    Returns:
        `(C·KH·KW, rows·cols·images)`; padding is zero.
    """
    xp = device.xp
    C, (KH, KW) = x.shape[0], window.kernel
    field = _padded_field(x, window, tile, device)
    c, h, w, n = field.strides
    patches = xp.lib.stride_tricks.as_strided(
        field,
        (C, KH, KW, *tile.shape),
        (c, h * window.dilation[0], w * window.dilation[1], h * window.stride[0], w * window.stride[1], n),
    )
    columns = device.scratch(patches.shape, x.dtype, "columns")
    columns[...] = patches
    return columns.reshape(C * KH * KW, -1)


def col2im(columns: Array, window: Window, tile: Tile, dx: Array) -> None:
    """Add the columns of one tile back to where `im2col` took them from; what came from padding is dropped.

    Args:
        columns: `(C·KH·KW, rows·cols·images)`.
        dx: channel-major `(C, H, W, N)`, added to in place.
    """
    C, H, W, _ = dx.shape
    (KH, KW), (top, _, left, _) = window.kernel, window.padding
    patches = columns.reshape(C, KH, KW, *tile.shape)
    across = [reach(tile.cols, window.stride[1], kw * window.dilation[1] - left, W) for kw in range(KW)]
    for kh in range(KH):
        tile_rows, image_rows = reach(tile.rows, window.stride[0], kh * window.dilation[0] - top, H)
        for kw, (tile_cols, image_cols) in enumerate(across):
            dx[:, image_rows, image_cols, tile.images] += patches[:, kh, kw, tile_rows, tile_cols]


def reach(positions: slice, stride: int, offset: int, size: int) -> tuple[slice, slice]:
    """Return which of the positions, and which pixels they meet, for one offset into the window along one axis."""
    first = max(positions.start, ceil(-offset / stride))
    last = min(positions.stop - 1, (size - 1 - offset) // stride)
    if last < first:
        return slice(0, 0), slice(0, 0)
    return (
        slice(first - positions.start, last + 1 - positions.start),
        slice(first * stride + offset, last * stride + offset + 1, stride),
    )


def _padded_field(x: Array, window: Window, tile: Tile, device: Device) -> Array:
    """Return the part of the padded image that a tile's windows cover: a view where no padding is met."""
    C, H, W, _ = x.shape
    (KH, KW), (top, _, left, _) = window.kernel, window.padding
    h0, h1 = _covered(tile.rows, window.stride[0], (KH - 1) * window.dilation[0], top)
    w0, w1 = _covered(tile.cols, window.stride[1], (KW - 1) * window.dilation[1], left)
    if h0 >= 0 and w0 >= 0 and h1 <= H and w1 <= W:
        return x[:, h0:h1, w0:w1, tile.images]
    # In memory for products, as it is forgotten before there is one.
    field = device.scratch((C, h1 - h0, w1 - w0, tile.shape[2]), x.dtype, "product")
    # A tile may lie in the padding altogether: then nothing is inside and all of it is cleared.
    image_h, image_w = slice(min(max(0, h0), H), max(0, min(H, h1))), slice(min(max(0, w0), W), max(0, min(W, w1)))
    inside_h, inside_w = slice(image_h.start - h0, image_h.stop - h0), slice(image_w.start - w0, image_w.stop - w0)
    if field.nbytes <= 3 * device.launch_bytes:
        field[...] = 0
    else:
        field[:, : inside_h.start] = 0
        field[:, inside_h.stop :] = 0
        field[:, inside_h, : inside_w.start] = 0
        field[:, inside_h, inside_w.stop :] = 0
    field[:, inside_h, inside_w] = x[:, image_h, image_w, tile.images]
    return field


def _covered(positions: slice, stride: int, span: int, padding: int) -> Pair:
    return positions.start * stride - padding, (positions.stop - 1) * stride + span + 1 - padding
