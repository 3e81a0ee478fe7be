"""Test-time augmentation: the mean of a network's outputs for several views of each image."""

from __future__ import annotations

from ..backend import Array
from ..functional import pad_reflect
from .module import Module


class AverageViews(Module):
    """The mean of a network's outputs for an image and other views of it, for evaluation (Krizhevsky et al. 2012).

    The views of Jordan's recipe for CIFAR-10 (arXiv 2404.00498). It takes as many forward passes as there are views.

    Args:
        model: images to outputs, such as logits.
        views: 1 for the image alone; 2 with its mirror image; 6 also with both shifted by a pixel to the lower right
            and to the upper left, where the image and its mirror image count as much as the four shifted ones. What is
            shifted in is reflected.

    Shape: `(N, C, H, W)` to that of the model's output.

    Raises:
        ValueError: if `views` is none of these.
    """

    def __init__(self, model: Module, views: int = 6) -> None:
        super().__init__()
        if views not in (1, 2, 6):
            raise ValueError(f"expected 1, 2 or 6 views, got {views!r}")
        self.model, self.views = model, views

    def extra_repr(self) -> str:
        return f"views={self.views}"

    def forward(self, x: Array) -> Array:
        if self.views == 1:
            return self.model(x)
        plain = self._both_sides(x)
        if self.views == 2:
            return plain
        H, W = x.shape[2:]
        padded = pad_reflect(x, 1)
        return plain / 2 + (self._both_sides(padded[..., :H, :W]) + self._both_sides(padded[..., 2:, 2:])) / 4

    def _both_sides(self, x: Array) -> Array:
        return (self.model(x) + self.model(x[..., ::-1])) / 2
