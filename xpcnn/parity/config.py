"""The configuration of a recorded run, which a trace carries to another machine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..backend import HostArray
from ..data import Dataset, DataSpec, Loader
from ..nn import Module
from ..training.config import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class TraceConfig(TrainingConfig):
    """Everything that determines a recorded run, apart from the data set's files.

    Nothing is augmented, so that the data are the same everywhere.

    Attributes:
        steps: the number of training steps.
        dtype: `"float32"` or `"float64"`.

    The others are those of `TrainingConfig`.
    """

    batch_size: int = 32
    optimizer: str = "sgd"
    weight_decay: float = 0.0
    steps: int = 20
    dtype: str = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise ValueError(f"a trace needs at least 1 step, got {self.steps}")
        if self.dtype not in ("float32", "float64"):
            raise ValueError(f"expected dtype float32 or float64, got {self.dtype!r}")

    def make_model(self, data: Dataset | DataSpec) -> Module:
        """Return the network with its initial weights, on the CPU."""
        return super().make_model(data).to(dtype=np.dtype(self.dtype))

    def batch(self, dataset: Dataset, indices: HostArray) -> tuple[HostArray, HostArray]:
        """Return the images and labels of one batch, as training sees them."""
        return next(iter(Loader(dataset.subset(indices), len(indices), dtype=self.dtype)))

    def batches(self, dataset: Dataset) -> list[HostArray]:
        """Return the indices of the samples of each step."""
        loader = self.make_loader(dataset, train=True)
        batches: list[HostArray] = []
        while len(batches) < self.steps:
            batches += loader.indices(len(batches) // len(loader))
        return batches[: self.steps]
