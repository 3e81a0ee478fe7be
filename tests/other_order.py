"""The make-believe device computing otherwise: sums in another order, as on a real GPU, or plainly wrong."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import strict_xp
from strict_xp import DEVICE, StrictArray


def reversed_matmul(x1: np.ndarray, x2: np.ndarray) -> np.ndarray:
    """Multiply matrices by adding up one term after the other, the last one first: the most error a sum may gather."""
    if x1.ndim != 2 or x2.ndim != 2:
        return np.matmul(x1[..., ::-1], x2[..., ::-1, :] if x2.ndim > 1 else x2[::-1])
    total = np.zeros((x1.shape[0], x2.shape[1]), np.result_type(x1, x2))
    step = max(1, x1.shape[1] // 2048)  # long sums take several terms at a time, for speed
    for end in range(x1.shape[1], 0, -step):
        total += x1[:, max(0, end - step) : end] @ x2[max(0, end - step) : end]
    return total


def reversed_sum(a: np.ndarray, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> np.ndarray:
    """Sum in one row, the last term first, where NumPy sums in pairs of blocks."""
    axes = tuple(range(a.ndim)) if axis is None else (axis,) if isinstance(axis, int) else tuple(axis)
    axes = tuple(i % a.ndim for i in axes)
    kept = [i for i in range(a.ndim) if i not in axes]
    rows = a.transpose(*kept, *axes).reshape([a.shape[i] for i in kept] + [-1])
    if rows.shape[-1]:
        result = np.cumsum(rows[..., ::-1], axis=-1, dtype=dtype or (rows[..., :0].sum(-1).dtype))[..., -1]
    else:
        result = rows.sum(-1)
    return result.reshape([1 if i in axes else n for i, n in enumerate(a.shape)]) if keepdims else result


@contextmanager
def replaced(**functions: Callable[..., Any]) -> Iterator[None]:
    """Replace functions of the device, and the methods of the same name, inside the block."""
    with pytest.MonkeyPatch.context() as patch:
        for name, function in functions.items():
            signature = getattr(strict_xp.xp, name).__signature__
            guarded = strict_xp._guarded(name, signature, function)
            patch.setattr(strict_xp.xp, name, guarded)
            if name in strict_xp._METHODS.split():
                patch.setattr(StrictArray, name, guarded)
        patch.setattr(DEVICE, "tile_bytes", 1 << 20)  # larger tiles: here the order of sums is what counts
        yield


def other_order() -> Any:
    """Return a context in which the make-believe device sums one term after the other, the last one first."""
    return replaced(matmul=reversed_matmul, sum=reversed_sum)
