"""A bias per channel and position."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import Array, batch_first, batch_last, device_of
from ..functional.checks import check_arrays, check_gradient
from .module import Module, host_parameter


class PositionBias(Module):
    """Adds a learned number per channel and position, `y = x + bias`, as with Paddle's `shared_biases=False`.

    Args:
        shape: `(C, H, W)` of an image; usually the output of a `Conv2d` with `bias=False`.
        dtype: of the parameter, and therefore of the inputs.

    Shape: `(N, C, H, W)` to the same.
    """

    arithmetic = "elementwise"

    def __init__(self, shape: tuple[int, int, int], *, dtype: Any = np.float32) -> None:
        super().__init__()
        self.bias = host_parameter(np.zeros(shape), dtype)

    def extra_repr(self) -> str:
        return f"{self.bias.data.shape}"

    def forward(self, x: Array) -> Array:
        check_arrays("PositionBias", input=x)
        if x.shape[1:] != self.bias.data.shape:
            raise ValueError(f"expected input (N, {', '.join(map(str, self.bias.data.shape))}), got {x.shape}")
        y = batch_last(x) + self.bias.data[..., None]
        self.save_for_backward((y.shape, y.dtype))
        return batch_first(y)

    def backward(self, dy: Array, *, input_gradient: bool = True) -> Array | None:
        rows = check_gradient("PositionBias.backward", dy, *self.saved()).reshape(self.bias.data.size, -1)
        if not self.bias.frozen:
            self.bias.add_gradient(device_of(dy).row_sums(rows).reshape(self.bias.data.shape))
        return dy
