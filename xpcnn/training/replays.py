"""Training steps that a GPU replays instead of starting each of their operations anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from ..backend import Array, Recording, device_of

Outcome: TypeAlias = tuple[Array, Array, Array]  # loss, outputs and targets
Compute: TypeAlias = Callable[[Array, Array], Outcome]


class Replays:
    """Computes steps on batches, each kind of batch by its own recording: see `Device.recorded`.

    The first batch of a kind, such as all full ones, is computed as it is; for the next ones the step is recorded. So a
    smaller last batch is not.

    Args:
        compute: computes a step on inputs and targets, which may be on the host, and returns the loss, the outputs, and
            the targets on the device.
        place: returns targets on the device, checked, for outputs and targets.
    """

    def __init__(self, compute: Compute, place: Callable[[Array, Array], Array]) -> None:
        self._compute, self._place = compute, place
        self._outputs: dict[object, Array] = {}  # by kind: those of the last step
        self._steps: dict[object, _Step] = {}

    def step(self, inputs: Array, targets: Array) -> Outcome:
        """Compute a step; the loss is the caller's, outputs and targets change with the next step."""
        kind = inputs.shape, inputs.strides, inputs.dtype, targets.shape, targets.dtype
        if kind not in self._outputs:
            outcome = self._compute(inputs, targets)
        else:
            targets = self._place(self._outputs[kind], targets)
            if kind not in self._steps:
                self._steps[kind] = _Step(self._compute, inputs, targets)
            loss, *others = self._steps[kind].run(inputs, targets)
            outcome = loss.copy(), *others
        self._outputs[kind] = outcome[1]
        return outcome


class _Step:
    """A step on arrays of its own, to which each batch is copied."""

    def __init__(self, compute: Compute, inputs: Array, targets: Array) -> None:
        self._device = device_of(inputs)
        # In the same layout in memory.
        own_inputs, own_targets = (self._device.xp.empty_like(array) for array in (inputs, targets))
        self._own = own_inputs, own_targets
        self._recording: Recording[Outcome] = self._device.recorded(lambda: compute(own_inputs, own_targets))

    def run(self, *batch: Array) -> Outcome:
        for own, array in zip(self._own, batch, strict=True):
            self._device.xp.copyto(own, array)
        return self._recording.run()
