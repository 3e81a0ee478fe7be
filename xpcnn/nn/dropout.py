"""The dropout layer."""

from __future__ import annotations

import numpy as np

from .. import functional as F
from ..backend import Array, device_of
from ..distributed import ALONE, Group
from ..random import default_generator
from .module import Module


class Dropout(Module):
    """Zeroes each element with probability `p` in training, and returns its input in evaluation.

    The other elements are scaled by `1 / (1 - p)` (Srivastava et al. 2014).

    Args:
        p: probability of zeroing, at least 0 and below 1.
        rng: the generator for the layer's key; None for the package's default one.

    Attributes:
        calls: how many training batches the layer has seen. The next mask depends on this number and the key alone, so
            setting it repeats or resumes a sequence of masks.
        group: the processes that share a training batch, each of which has its part of the mask; see `synchronize`.

    Raises:
        ValueError: if `p` is out of range.
    """

    arithmetic = "elementwise"
    group: Group = ALONE

    def __init__(self, p: float = 0.5, *, rng: np.random.Generator | None = None) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"p must be at least 0 and below 1, got {p}")
        self.p = p
        self.calls = 0
        self._key = int((rng or default_generator()).integers(2**32))

    def extra_repr(self) -> str:
        return f"{self.p}"

    def forward(self, x: Array) -> Array:
        if not self.training:
            return x
        (call,) = device_of(x).host_numbers(self._next_call, np.uint32)
        y, cache = F.dropout_forward(x, self.p, (self._key, call), group=self.group)
        self.save_for_backward(cache)
        return y

    def _next_call(self) -> tuple[int]:
        self.calls += 1
        return ((self.calls - 1) % 2**32,)

    def backward(self, dy: Array, *, input_gradient: bool = True) -> Array | None:
        return F.dropout_backward(dy, self.saved())
