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
        ema_steps: how many steps are in the average of the weights; 0 without one.
    """

    epoch: int
    batch: int
    step: int
    seconds: float
    records: list[Record]
    spec: DataSpec | None
    ema_steps: int = 0

    def to_info(self) -> dict[str, Any]:
        """Return the entries of `Checkpoint.info`, in values that JSON can represent."""
        numbers: dict[str, float] = {
            "epoch": self.epoch,
            "batch": self.batch,
            "step": self.step,
            "seconds": self.seconds,
        }
        numbers |= {"ema_steps": self.ema_steps} if self.ema_steps else {}
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
            seconds, ema_steps = float(progress.get("seconds", 0)), int(progress.get("ema_steps", 0))
            records = [checked_record(record) for record in info.get("records", [])]
            spec = None if (data := info.get("data")) is None else DataSpec.from_dict(data)
            if not (all(0 <= number < 2**63 for number in (epoch, batch, step, ema_steps)) and seconds >= 0):
                raise ValueError(f"expected numbers of at least 0, got {progress}")
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise CheckpointError(f"the checkpoint has no training progress to resume: {error!r}") from error
        return cls(epoch, batch, step, seconds, records, spec, ema_steps)
