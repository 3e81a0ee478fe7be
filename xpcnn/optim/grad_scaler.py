"""Dynamic loss scaling: keeps gradients within the range of float16, and skips steps in which they left it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..backend import Array, Device, array_namespace, batch_first, batch_last, chain, device_of, to_host
from .optimizer import Optimizer, require

_LEAST, _MOST = 2.0**-24, 2.0**64  # of the scale; by then something else is wrong


class GradScaler:
    """Dynamic loss scaling (Micikevicius et al. 2018), for training under `nn.autocast("mixed", device)`.

    float16 has no numbers but 0 below 6e-8, where many gradients are. So the gradient of the loss is multiplied by a
    scale, and the gradients w.r.t. the parameters are divided by it. If one of them is infinite or not a number, the
    step is skipped and the scale is halved; after `growth_interval` steps without that, it is doubled.

    The scale, and whether a step is skipped, are computed on the device, so that nothing waits for a GPU: the step is
    taken on the weights, and where it must be skipped, the weights and the optimizer's state are restored from a copy.
    A skipped step counts in `Optimizer.steps`, for the learning rate and the bias correction of Adam. Batch norm's
    running averages belong to the forward pass: they are updated in every step, as in PyTorch.

    Args:
        init_scale: the first scale, a power of two.
        growth_interval: after how many good steps in a row the scale is doubled.

    Raises:
        ValueError: if an option is out of range.

    The docstring of `nn.autocast` has an example; `Trainer(..., precision="mixed")` does it all.
    """

    def __init__(self, init_scale: float = 2.0**16, growth_interval: int = 2000) -> None:
        require(_LEAST <= init_scale <= _MOST, "init_scale", f"from {_LEAST:g} to {_MOST:g}", init_scale)
        require(growth_interval >= 1, "growth_interval", "at least 1", growth_interval)
        self.growth_interval = growth_interval
        self._scale: Array = np.full(1, init_scale, np.float32)
        self._good_steps: Array = np.zeros(1, np.float32)

    def scale(self, dy: Array) -> Array:
        """Return the gradient w.r.t. the network's output, `(N, ...)`, multiplied by the scale."""
        self._move(device_of(dy))
        return batch_first(batch_last(dy) * self._scale)

    def unscale(self, optimizer: Optimizer) -> None:
        """Divide all gradients by the scale, in place: before they are clipped, or before `step`."""
        for gradient in optimizer.gather():
            self._move(device_of(gradient))
            gradient /= self._scale

    def rescale(self, optimizer: Optimizer) -> None:
        """Undo `unscale`, if there is no step and the next backward pass adds to the gradients."""
        for gradient in optimizer.gather():
            gradient *= self._scale

    def step(self, optimizer: Optimizer) -> None:
        """Let the optimizer take a step if all gradients are finite, after `unscale`; adjust the scale."""
        gradients = optimizer.gather()
        self._move(device_of(gradients[0]))
        xp = array_namespace(self._scale)
        checks = [xp.isfinite(gradient).all() for gradient in gradients]
        finite = checks[0]
        for check in checks[1:]:
            finite = xp.logical_and(finite, check)
        skipped = xp.logical_not(finite)
        before = [(array, array.copy()) for array in optimizer.arrays()]
        with np.errstate(over="ignore", invalid="ignore"):
            optimizer.step()
        for array, copy in before:
            xp.copyto(array, copy, where=skipped)
        _adjust(self._scale, self._good_steps, xp.asarray(finite).reshape(1), self.growth_interval)

    def state_dict(self) -> dict[str, float]:
        """Return the scale and the number of good steps since it was adjusted; this waits for the device."""
        return {"scale": float(to_host(self._scale)[0]), "good_steps": float(to_host(self._good_steps)[0])}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what `state_dict` returned.

        Raises:
            ValueError: if it has other entries, or one is out of range.
        """
        try:
            scale, good_steps = (float(state[name]) for name in ("scale", "good_steps"))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"expected a loss scale and its number of good steps, got {state!r:.60}") from error
        require(_LEAST <= scale <= _MOST, "scale", f"from {_LEAST:g} to {_MOST:g}", scale)
        require(0 <= good_steps < 2**24, "good_steps", f"from 0 to {2**24}", good_steps)
        self._scale, self._good_steps = np.full(1, scale, np.float32), np.full(1, good_steps, np.float32)

    def _move(self, device: Device) -> None:
        if device_of(self._scale) is not device:
            self._scale, self._good_steps = device.asarray(self._scale), device.asarray(self._good_steps)


@chain
def _adjust(scale: Array, good_steps: Array, finite: Array, growth_interval: int) -> None:
    """Update the scale and the number of good steps, `(1,)` each, after a step whose gradients were finite or not."""
    xp = array_namespace(scale)
    good = (good_steps + 1) * finite
    grows = good >= growth_interval
    scale[...] = xp.where(finite, xp.where(grows, xp.minimum(scale * 2, _MOST), scale), xp.maximum(scale / 2, _LEAST))
    good_steps[...] = xp.where(grows, good * 0, good)
