"""The configuration of a recorded run, which a trace carries to another machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ..backend import HostArray
from ..data import Dataset, DataSpec, Loader
from ..nn import Module
from ..training.config import TrainingConfig

Mode = Literal["train", "eval"]


@dataclass(frozen=True, kw_only=True)
class TraceConfig(TrainingConfig):
    """Everything that determines a recorded run, apart from the data set's files.

    Nothing is augmented, so that the data are the same everywhere.

    Attributes:
        steps: the number of training steps.
        dtype: `"float32"` or `"float64"`.
        mode: `"train"` to compare the training steps; `"eval"` to compare the network in evaluation mode after each of
            them, on the step's images. By then batch norm's running averages are no longer the initial ones.

    The others are those of `TrainingConfig`; the precision is `"float32"`, also for float64, or `"mixed"`.
    """

    batch_size: int = 32
    optimizer: str = "sgd"
    weight_decay: float = 0.0
    steps: int = 20
    dtype: str = "float32"
    mode: str = "train"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise ValueError(f"a trace needs at least 1 step, got {self.steps}")
        if self.dtype not in ("float32", "float64"):
            raise ValueError(f"expected dtype float32 or float64, got {self.dtype!r}")
        if self.precision == "tf32":
            raise ValueError("a trace is recorded in float32 or mixed precision, and may be checked in tf32")
        if self.precision != "float32" and self.dtype != "float32":
            raise ValueError(f"mixed precision is for dtype float32, got {self.dtype}")
        if self.mode not in get_args(Mode):
            raise ValueError(f"expected mode {' or '.join(get_args(Mode))}, got {self.mode!r}")

    @property
    def work(self) -> str:
        """What is compared, in words."""
        steps = f"{self.steps} steps of {self.batch_size} images"
        return steps if self.mode == "train" else f"evaluated after each of {steps}"

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
