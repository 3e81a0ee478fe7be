"""Loss and metrics averaged over an epoch. They stay on the device until they are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..backend import Array, array_namespace, to_host
from ..nn.loss import Metric, correct


class NonFiniteLossError(ArithmeticError):
    """The loss became infinite or not a number.

    Attributes:
        batch: how many batches came before the one with this loss.
        value: the loss.
    """

    def __init__(self, batch: int, value: float) -> None:
        super().__init__(f"the loss became {value}")
        self.batch, self.value = batch, value


class Metrics:
    """Averages over samples: of the loss and of other functions of outputs and targets.

    Args:
        functions: by name, functions of outputs and targets that return a sum over the batch as a 0-d array, such as
            `Loss.metrics`. None for the accuracy of a classifier.

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
        """Add one batch, without waiting for the device.

        Args:
            loss: 0-d, the mean over the batch.
            outputs: `(N, ...)`, such as logits.
            targets: `(N, ...)`, such as labels, on the same device.
        """
        self._pending.append((loss, *(function(outputs, targets) for function in self.functions.values())))
        self.sizes.append(len(targets))

    def read(self) -> None:
        """Copy values that are still on the device to the host.

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
            # One by one, so that the sum has the same bits however often it is read.
            for value in to_host(xp.stack(values)).tolist():
                self.sums[name] += value
        for batch in range(seen, len(self.losses)):
            if not np.isfinite(self.losses[batch]):
                raise NonFiniteLossError(batch, self.losses[batch])

    def state(self) -> dict[str, Any]:
        """Return losses, sizes and sums as values that JSON can represent.

        Raises:
            NonFiniteLossError: if a loss is infinite or not a number.
        """
        self.read()
        return {"losses": self.losses, "sizes": self.sizes, "sums": self.sums}

    def load_state(self, state: Any) -> None:
        """Load what `state` returned.

        Raises:
            ValueError: if it belongs to other metrics, or is damaged.
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
        """The number of samples."""
        return sum(self.sizes)

    @property
    def loss(self) -> float:
        """The mean loss per sample; nan without samples.

        It is the mean of the batches' losses, weighted by their sizes. A loss with class weights or an `ignore_index`
        divides each batch by the sum of its samples' weights instead; then this is not quite the weighted mean over all
        samples at once.
        """
        self.read()
        return float(np.average(self.losses, weights=self.sizes)) if self.sizes else float("nan")

    def averages(self) -> dict[str, float]:
        """Return the loss and each function's average over the samples by name; nan without samples."""
        loss, samples = self.loss, self.samples or float("nan")
        return {"loss": loss} | {name: total / samples for name, total in self.sums.items()}

    @property
    def accuracy(self) -> float:
        """The fraction of samples classified correctly, from 0 to 1, if accuracy is measured; nan without samples."""
        return self.averages()["accuracy"]

    @property
    def correct(self) -> int:
        """How many samples were classified correctly, if accuracy is measured."""
        self.read()
        return round(self.sums["accuracy"])
