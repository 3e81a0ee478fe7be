"""Activation layers."""

from __future__ import annotations

from .. import functional as F
from ..backend import Array
from .module import Module


class ReLU(Module):
    """`max(x, 0)`, elementwise; the gradient at 0 is 0."""

    def forward(self, x: Array) -> Array:
        y, cache = F.relu_forward(x)
        self._keep(cache)
        return y

    def backward(self, dy: Array, *, input_gradient: bool = True) -> Array | None:
        return F.relu_backward(dy, self._take())
