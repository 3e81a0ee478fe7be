"""How far training has come, as a checkpoint's `info` describes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..data import DataSpec
from .callbacks import Record, checked_record
from .checkpoint import CheckpointError


@dataclass(frozen=True)
class Progress:
    """How far training has come.

    Attributes:
        epoch: how many epochs are complete.
        batch: how many batches of the current epoch are done.
        step: how many steps the optimizer has made.
        seconds: spent on the current epoch.
        records: of all complete epochs.
        spec: of the training images; None if unknown.
    """

    epoch: int
    batch: int
    step: int
    seconds: float
    records: list[Record]
    spec: DataSpec | None

    def to_info(self) -> dict[str, Any]:
        """Return the entries of `Checkpoint.info`, in values that JSON can represent."""
        numbers = {"epoch": self.epoch, "batch": self.batch, "step": self.step, "seconds": self.seconds}
        data = {} if self.spec is None else {"data": self.spec.to_dict()}
        return {"records": list(self.records), "progress": numbers, **data}

    @classmethod
    def from_info(cls, info: dict[str, Any]) -> Progress:
        """Return what `to_info` made entries of; checkpoints before version 3 have no records and no seconds.

        Raises:
            CheckpointError: if an entry is absent or damaged.
        """
        try:
            progress = info["progress"]
            epoch, batch, step = (int(progress[key]) for key in ("epoch", "batch", "step"))
            seconds = float(progress.get("seconds", 0))
            records = [checked_record(record) for record in info.get("records", [])]
            spec = None if (data := info.get("data")) is None else DataSpec.from_dict(data)
            if not (0 <= epoch < 2**63 and 0 <= batch < 2**63 and 0 <= step < 2**63 and seconds >= 0):
                raise ValueError(f"expected numbers of at least 0, got {progress}")
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise CheckpointError(f"the checkpoint has no training progress to resume: {error!r}") from error
        return cls(epoch, batch, step, seconds, records, spec)
