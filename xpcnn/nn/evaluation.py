"""Rewrites of a network in evaluation mode, which compute the same within rounding with less work.

Batch norm's fixed scale and shift become part of the convolution before it. A ReLU is applied to a convolution's output
while it is in cache, or in place. Dropout and `Identity` disappear. The weights that the user sees stay as they are:
`changes` says when what was computed from them has to be computed again.
"""

from __future__ import annotations

from math import inf

from .. import functional as F
from ..backend import Array, array_namespace
from ..functional.windows import Limits
from .activation import Identity, ReLU, ReLU6
from .convolution import Conv2d
from .dropout import Dropout
from .linear import Linear
from .module import Module
from .normalization import BatchNorm2d
from .pooling import AvgPool2d, MaxPool2d
from .rewrite import RULES, Step

LIMITS: dict[type[Module], Limits] = {ReLU: (0, inf), ReLU6: (0, 6)}


class InferenceStep(Module):
    """What is computed in evaluation mode instead of one or several modules.

    Attributes:
        of: the module that errors name.
    """

    def __init__(self, of: Module) -> None:
        super().__init__()
        self.of, self.training = of, False


class FoldedConv2d(InferenceStep):
    """A convolution, with the batch norm and the ReLU after it."""

    of: Conv2d

    def __init__(self, conv: Conv2d, norm: BatchNorm2d | None) -> None:
        super().__init__(conv)
        self.array, self.bias = _folded(conv, norm)
        self.normalized = norm is not None
        self.limits: Limits | None = None
        self._kept: dict[str, Array] = {}

    def forward(self, x: Array) -> Array:
        return self.of.infer(x, self.array, self.bias, limits=self.limits, kept=self._kept)


class ClipInPlace(InferenceStep):
    """A ReLU that overwrites its input, which nothing else refers to."""

    def __init__(self, of: Module) -> None:
        super().__init__(of)
        self.limits = LIMITS[type(of)]

    def forward(self, x: Array) -> Array:
        return F.clip_in_place(x, self.limits)


# Their output is always memory of its own.
_FRESH = (AvgPool2d, BatchNorm2d, FoldedConv2d, Linear, MaxPool2d)


def without_identities(steps: list[Step]) -> list[Step]:
    """Leave out what returns its input, unless it is all there is: the output must not be the user's input."""
    kept = [step for step in steps if type(step[1]) not in (Dropout, Identity)]
    return kept or steps


def fold_into_convolutions(steps: list[Step]) -> list[Step]:
    """Make the batch norm and the ReLU after a convolution part of it."""
    folded: list[Step] = []
    for name, module in steps:
        before = folded[-1][1] if folded else None
        if type(module) is Conv2d:
            module = FoldedConv2d(module, None)
        elif isinstance(before, FoldedConv2d) and before.limits is None:
            if type(module) in LIMITS:
                before.limits = LIMITS[type(module)]
                continue
            if type(module) is BatchNorm2d and _folds(module, before.of) and not before.normalized:
                folded[-1] = folded[-1][0], FoldedConv2d(before.of, module)
                continue
        folded.append((name, module))
    return folded


def clip_in_place(steps: list[Step]) -> list[Step]:
    """Let a ReLU overwrite the output of the module before it."""
    for i in range(1, len(steps)):
        name, module = steps[i]
        if type(module) in LIMITS and isinstance(steps[i - 1][1], _FRESH):
            steps[i] = name, ClipInPlace(module)
    return steps


EVALUATION_RULES = (without_identities, *RULES, fold_into_convolutions, clip_in_place)


def _folds(norm: BatchNorm2d, conv: Conv2d) -> bool:
    return norm.track_running_stats and norm.num_features == conv.out_channels


def _folded(conv: Conv2d, norm: BatchNorm2d | None) -> tuple[Array, Array | None]:
    """Return weight and bias of a convolution and the batch norm after it."""
    weight, bias = conv.weight.data, None if conv.bias is None else conv.bias.data
    if norm is None:
        return weight, bias
    mean, variance = norm.running_mean.data, norm.running_var.data
    scale = 1 / array_namespace(variance).sqrt(variance + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight.data
    shift = -mean * scale if bias is None else (bias - mean) * scale
    if norm.bias is not None:
        shift = shift + norm.bias.data
    return weight * scale.reshape(-1, 1, 1, 1), shift
