"""The column matrices of rows of positions, as overlapping views: what `by_rows.py` multiplies.

Each row of the image is copied KW times, shifted by one column of the window each time. In the layout
(rows, KW, C, OW, N) the matrix of a row of positions is that of the KH rows under it, (KH·KW·C, OW·N).
"""

from __future__ import annotations

from functools import lru_cache
from typing import TypeAlias

from ..backend import Array, Device
from .windows import Window, reach

_Index: TypeAlias = tuple[slice | int, ...]


def row_columns(x: Array, window: Window, rows: slice, OW: int, device: Device) -> Array:
    """Return what the window covers at some rows of positions, `(G, rows, KH·KW·C, OW·N)`; padding is zero.

    It is a view of the scratch slot "columns".

    Args:
        x: `(G, C, H, W, N)`.
        rows: of the output.
    """
    G, C, H, W, N = x.shape
    KH, KW = window.kernel
    copied, padding, height, step = _copies(window, rows.start, rows.stop, OW, H, W)
    columns = device.scratch((G, height, KW, C, OW, N), x.dtype, "columns")
    if columns.nbytes <= len(padding) * device.launch_bytes:
        columns[...] = 0
    else:
        for target in padding:
            columns[target] = 0
    pixels, source = columns, x.swapaxes(1, 2)
    if window.stride[1] > 1:
        pixels, source = device.as_runs(pixels), device.as_runs(source)
    for target, covered in copied:
        pixels[target] = source[covered]
    group, row, _, _, _, number = columns.strides
    return device.strided(
        columns,
        (G, rows.stop - rows.start, KH * KW * C, OW * N),
        (group, step * row, OW * N * number, number),
    )


@lru_cache(maxsize=1024)
def _copies(
    window: Window, start: int, stop: int, OW: int, H: int, W: int
) -> tuple[list[tuple[_Index, _Index]], list[_Index], int, int]:
    """Return what to copy where for some rows of positions.

    Returns:
        parts of `(G, rows, KW, C, OW, N)`, each with the part of the image `(G, H, C, W, N)` that is copied there; the
        parts that are padding; how many rows there are; and how many from the first under the window at one row of
        positions to the first at the next.
    """
    (KH, KW), (sh, sw), (dh, dw), (top, _, left, _) = window
    every = slice(None)
    if dh == 1 and sh <= KH:  # the rows under the window follow each other, and most are also under the next
        height, step = (stop - start - 1) * sh + KH, sh
        inside, image_rows = reach(slice(0, height), 1, start * sh - top, H)
        met = [(inside, image_rows)]
        outside = [slice(0, inside.start), slice(inside.stop, height)]
    else:
        height, step = (stop - start) * KH, KH
        met, outside = [], []
        for kh in range(KH):
            inside, image_rows = reach(slice(start, stop), sh, kh * dh - top, H)
            met.append((slice(inside.start * KH + kh, inside.stop * KH + kh, KH), image_rows))
            outside += [slice(kh, inside.start * KH + kh, KH), slice(inside.stop * KH + kh, height, KH)]
    copied: list[tuple[_Index, _Index]] = []
    padding: list[_Index] = [(every, part) for part in outside if part.start < part.stop]
    for kw in range(KW):
        cols, image_cols = reach(slice(0, OW), sw, kw * dw - left, W)
        beside = [part for part in (slice(0, cols.start), slice(cols.stop, OW)) if part.start < part.stop]
        for inside, image_rows in met:
            copied.append(((every, inside, kw, every, cols), (every, image_rows, every, image_cols)))
            padding += [(every, inside, kw, every, part) for part in beside]
    return copied, padding, height, step
