"""Loss and accuracy over an epoch, kept on the device and read from it only when somebody looks."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..backend import Array, array_namespace, to_host


class NonFiniteLossError(ArithmeticError):
    """The loss became infinite or not a number.

    Attributes:
        batch: how many batches the metrics had seen before the one at fault.
        value: the loss.
    """

    def __init__(self, batch: int, value: float) -> None:
        super().__init__(f"the loss became {value}")
        self.batch, self.value = batch, value


@dataclass
class Metrics:
    """Averages over the samples seen since the metrics were made.

    Attributes:
        losses: mean loss of each batch read so far.
        sizes: samples in each batch.
        correct: how many of the samples read so far were classified rightly.
    """

    losses: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    correct: int = 0
    _pending: list[tuple[Array, Array]] = field(default_factory=list)

    def update(self, loss: Array, logits: Array, labels: Array) -> None:
        """Take up one batch, without waiting for the device.

        Args:
            loss: 0-d, the mean over the batch.
            logits: `(N, classes)`.
            labels: `(N,)`.
        """
        self._pending.append((loss, (logits.argmax(axis=1) == labels).sum()))
        self.sizes.append(len(labels))

    def read(self) -> None:
        """Fetch from the device what is not yet on the host.

        Raises:
            NonFiniteLossError: if a loss is infinite or not a number.
        """
        if not self._pending:
            return
        losses, correct = zip(*self._pending, strict=True)
        xp = array_namespace(losses[0])
        self._pending = []
        seen = len(self.losses)
        self.losses += to_host(xp.stack(losses)).tolist()
        self.correct += int(to_host(xp.stack(correct)).sum())
        for batch in range(seen, len(self.losses)):
            if not np.isfinite(self.losses[batch]):
                raise NonFiniteLossError(batch, self.losses[batch])

    @property
    def samples(self) -> int:
        """How many samples were taken up."""
        return sum(self.sizes)

    @property
    def loss(self) -> float:
        """The mean loss per sample; nan if there was none."""
        self.read()
        return float(np.average(self.losses, weights=self.sizes)) if self.sizes else float("nan")

    @property
    def accuracy(self) -> float:
        """The share of samples classified rightly, from 0 to 1; nan if there was none."""
        self.read()
        return self.correct / self.samples if self.sizes else float("nan")
