"""Loss and other averages over an epoch, kept on the device and read from it only when somebody looks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..backend import Array, array_namespace, to_host
from ..nn.loss import Metric, correct


class NonFiniteLossError(ArithmeticError):
    """The loss became infinite or not a number.

    Attributes:
        batch: how many batches the metrics had seen before the one at fault.
        value: the loss.
    """

    def __init__(self, batch: int, value: float) -> None:
        super().__init__(f"the loss became {value}")
        self.batch, self.value = batch, value


class Metrics:
    """Averages over the samples seen since the metrics were made: of the loss, and of whatever else is measured.

    Args:
        functions: by name, functions of outputs and targets that return the sum over the batch of something measured
            for each sample, as a 0-d array; such as a loss's `metrics`. None for the accuracy of a classifier.

    Attributes:
        losses: mean loss of each batch read so far.
        sizes: samples in each batch.
        sums: of each function, over the samples read so far.
    """

    def __init__(self, functions: Mapping[str, Metric] | None = None) -> None:
        self.functions = {"accuracy": correct} if functions is None else dict(functions)
        self.losses: list[float] = []
        self.sizes: list[int] = []
        self.sums = dict.fromkeys(self.functions, 0.0)
        self._pending: list[tuple[Array, ...]] = []

    def update(self, loss: Array, outputs: Array, targets: Array) -> None:
        """Take up one batch, without waiting for the device.

        Args:
            loss: 0-d, the mean over the batch.
            outputs: `(N, ...)`, such as logits.
            targets: `(N, ...)`, such as labels, on the same device.
        """
        self._pending.append((loss, *(function(outputs, targets) for function in self.functions.values())))
        self.sizes.append(len(targets))

    def read(self) -> None:
        """Fetch from the device what is not yet on the host.

        Raises:
            NonFiniteLossError: if a loss is infinite or not a number.
        """
        if not self._pending:
            return
        losses, *measured = zip(*self._pending, strict=True)
        xp = array_namespace(losses[0])
        self._pending = []
        seen = len(self.losses)
        self.losses += to_host(xp.stack(losses)).tolist()
        for name, values in zip(self.functions, measured, strict=True):
            for value in to_host(xp.stack(values)).tolist():  # one by one: the bits do not tell when somebody looked
                self.sums[name] += value
        for batch in range(seen, len(self.losses)):
            if not np.isfinite(self.losses[batch]):
                raise NonFiniteLossError(batch, self.losses[batch])

    def state(self) -> dict[str, Any]:
        """Return losses, sizes and sums, as JSON can hold them.

        Raises:
            NonFiniteLossError: if a loss is infinite or not a number.
        """
        self.read()
        return {"losses": self.losses, "sizes": self.sizes, "sums": self.sums}

    def load_state(self, state: Any) -> None:
        """Take up what `state` returned.

        Raises:
            ValueError: if it is of other metrics, or damaged.
        """
        try:
            losses = [float(loss) for loss in state["losses"]]
            sizes = [int(size) for size in state["sizes"]]
            sums = {str(name): float(total) for name, total in state["sums"].items()}
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise ValueError(f"expected the losses, sizes and sums of metrics, got {state!r:.60}") from error
        if sums.keys() != self.sums.keys() or len(losses) != len(sizes) or not all(size > 0 for size in sizes):
            raise ValueError(
                f"expected sums of {', '.join(self.sums) or 'nothing'} and a size for each loss, "
                f"got sums of {', '.join(sums) or 'nothing'} and {len(sizes)} sizes for {len(losses)} losses"
            )
        self.losses, self.sizes, self.sums, self._pending = losses, sizes, sums, []

    @property
    def samples(self) -> int:
        """How many samples were taken up."""
        return sum(self.sizes)

    @property
    def loss(self) -> float:
        """The mean loss per sample; nan if there was none."""
        self.read()
        return float(np.average(self.losses, weights=self.sizes)) if self.sizes else float("nan")

    def averages(self) -> dict[str, float]:
        """Return the loss and each function's average over the samples by name; nan if there was none."""
        loss, samples = self.loss, self.samples or float("nan")
        return {"loss": loss} | {name: total / samples for name, total in self.sums.items()}

    @property
    def accuracy(self) -> float:
        """The fraction of samples classified correctly, from 0 to 1, where that is measured; nan if there was none."""
        return self.averages()["accuracy"]

    @property
    def correct(self) -> int:
        """How many samples were classified correctly, where that is measured."""
        self.read()
        return round(self.sums["accuracy"])
