"""Rewrites of a network in evaluation mode, which compute the same within rounding with less work.

Batch norm's fixed scale and shift become part of the convolution before it, and a layer norm's weight and bias part of
the convolution after it. A ReLU is applied to the output of a convolution or linear layer while it is in cache, or in
place. Dropout and `Identity` disappear. The weights that the user sees stay as they are: `changes` says when what was
computed from them has to be computed again.
"""

from __future__ import annotations

from .. import functional as F
from ..backend import Array, array_namespace
from ..functional.convolution import Kept
from ..functional.windows import Limits, make_window
from .activation import Identity
from .convolution import Conv2d
from .dropout import Dropout
from .linear import Linear, PointwiseLinear
from .module import Module
from .normalization import BatchNorm2d, LayerNorm2d
from .pooling import AvgPool2d, MaxPool2d
from .rewrite import LIMITS, Joined, Step, pool_before_relu


class FoldedConv2d(Joined):
    """A convolution, with the weight and bias of a layer norm before it, and the batch norm and the ReLU after it."""

    of: Conv2d | PointwiseLinear

    def __init__(
        self, conv: Conv2d | PointwiseLinear, before: LayerNorm2d | None = None, after: BatchNorm2d | None = None
    ) -> None:
        super().__init__(conv)
        self.before, self.after = before, after
        self.array, self.bias = _with_batch_norm(*_with_layer_norm(conv, before), after)
        self.limits: Limits | None = None
        self._kept: Kept = {}

    def forward(self, x: Array) -> Array:
        return self.of.infer(x, self.array, self.bias, limits=self.limits, kept=self._kept)


class Standardized(Joined):
    """A layer norm over the channels; its weight and bias may be part of the convolution after it."""

    of: LayerNorm2d

    def __init__(self, of: LayerNorm2d, *, affine: bool) -> None:
        super().__init__(of)
        self.affine = affine

    def forward(self, x: Array) -> Array:
        return self.of.infer(x, affine=self.affine)


class ClippedLinear(Joined):
    """A linear layer with the ReLU after it."""

    of: Linear

    def __init__(self, of: Linear, limits: Limits) -> None:
        super().__init__(of)
        self.limits = limits

    def forward(self, x: Array) -> Array:
        return F.linear(x, self.of.weight.data, None if self.of.bias is None else self.of.bias.data, self.limits)


class ClipInPlace(Joined):
    """A ReLU that overwrites its input, which nothing else refers to."""

    def __init__(self, of: Module) -> None:
        super().__init__(of)
        self.limits = LIMITS[type(of)]

    def forward(self, x: Array) -> Array:
        return F.clip_in_place(x, self.limits)


# Their output is always memory of its own.
_FRESH = (AvgPool2d, BatchNorm2d, FoldedConv2d, Linear, MaxPool2d, Standardized)


def without_identities(steps: list[Step]) -> list[Step]:
    """Leave out what returns its input, unless it is all there is: the output must not be the user's input."""
    kept = [step for step in steps if type(step[1]) not in (Dropout, Identity)]
    return kept or steps


def fold_into_convolutions(steps: list[Step]) -> list[Step]:
    """Make the layer norm's weight and bias before a convolution, the batch norm and the ReLU after it part of it."""
    folded: list[Step] = []
    for name, module in steps:
        before = folded[-1][1] if folded else None
        if type(module) is LayerNorm2d:
            module = Standardized(module, affine=True)
        elif type(module) is Conv2d or type(module) is PointwiseLinear:
            if isinstance(before, Standardized) and before.affine and _takes_affine(module, before.of):
                folded[-1] = folded[-1][0], Standardized(before.of, affine=False)
                module = FoldedConv2d(module, before.of)
            else:
                module = FoldedConv2d(module)
        elif isinstance(before, FoldedConv2d) and before.limits is None:
            if type(module) in LIMITS:
                before.limits = LIMITS[type(module)]
                continue
            if type(module) is BatchNorm2d and folds(module, before.of) and before.after is None:
                folded[-1] = folded[-1][0], FoldedConv2d(before.of, before.before, module)
                continue
        folded.append((name, module))
    return folded


def clip_linear(steps: list[Step]) -> list[Step]:
    """Make the ReLU after a linear layer part of it."""
    clipped: list[Step] = []
    for name, module in steps:
        if type(module) in LIMITS and clipped and type(clipped[-1][1]) is Linear:
            clipped[-1] = clipped[-1][0], ClippedLinear(clipped[-1][1], LIMITS[type(module)])
        else:
            clipped.append((name, module))
    return clipped


def clip_in_place(steps: list[Step]) -> list[Step]:
    """Let a ReLU overwrite the output of the module before it."""
    for i in range(1, len(steps)):
        name, module = steps[i]
        if type(module) in LIMITS and isinstance(steps[i - 1][1], _FRESH):
            steps[i] = name, ClipInPlace(module)
    return steps


EVALUATION_RULES = (without_identities, pool_before_relu, fold_into_convolutions, clip_linear, clip_in_place)


def folds(norm: BatchNorm2d, conv: Module) -> bool:
    """Return whether a batch norm can be part of the module before it, in evaluation."""
    return (
        type(norm) is BatchNorm2d
        and type(conv) is Conv2d
        and norm.track_running_stats
        and norm.num_features == conv.out_channels
    )


def _takes_affine(conv: Conv2d | PointwiseLinear, norm: LayerNorm2d) -> bool:
    """Return whether a layer norm's weight and bias can be part of a convolution: padding has no bias."""
    if isinstance(conv, PointwiseLinear):
        return conv.in_features == norm.num_channels
    window = make_window(conv.kernel_size, conv.stride, conv.padding, conv.dilation)
    return not any(window.padding) and conv.groups == 1 and conv.in_channels == norm.num_channels


def _with_layer_norm(conv: Conv2d | PointwiseLinear, norm: LayerNorm2d | None) -> tuple[Array, Array | None]:
    """Return weight and bias of a convolution and a layer norm's weight and bias before it."""
    weight, bias = conv.weight.data, None if conv.bias is None else conv.bias.data
    if norm is None:
        return weight, bias
    if norm.bias is not None:
        shift = (weight.reshape(*weight.shape[:2], -1).sum(axis=2) * norm.bias.data).sum(axis=1)
        bias = shift if bias is None else bias + shift
    if norm.weight is not None:
        weight = weight * norm.weight.data.reshape(-1, *[1] * (weight.ndim - 2))
    return weight, bias


def _with_batch_norm(weight: Array, bias: Array | None, norm: BatchNorm2d | None) -> tuple[Array, Array | None]:
    """Return weight and bias of a convolution and the batch norm after it."""
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
