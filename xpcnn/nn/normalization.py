"""Normalisation layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import functional as F
from ..backend import Array, Shape, chain, device_of
from ..distributed import ALONE, Group
from ..functional.checks import check_arrays
from ..functional.windows import Limits
from .module import Arithmetic, Buffer, Counter, Module, Parameter, host_parameter


class Normalization(Module):
    """Base class of normalisation layers: a weight, initially 1, and a bias, initially 0."""

    arithmetic: Arithmetic = "normalization"

    weight: Parameter | None
    bias: Parameter | None

    def __init__(self, shape: Shape, weight: bool, bias: bool, dtype: Any) -> None:
        super().__init__()
        self.weight = host_parameter(np.ones(shape), dtype) if weight else None
        self.bias = host_parameter(np.zeros(shape), dtype) if bias else None

    def _affine(self) -> tuple[Array | None, Array | None]:
        return (
            None if self.weight is None else self.weight.data,
            None if self.bias is None else self.bias.data,
        )

    def _add_gradients(self, dweight: Array | None, dbias: Array | None) -> None:
        for parameter, gradient in ((self.weight, dweight), (self.bias, dbias)):
            if parameter is not None:
                parameter.add_gradient(gradient)


class _Fixed(NamedTuple):
    """What a frozen batch norm saves: the variance that it used, and its output's shape."""

    variance: Array
    shape: Shape


class BatchNorm(Normalization):
    """Base class of batch normalisation.

    Attributes:
        group: the processes that share a training batch, whose statistics are of the whole batch; see `synchronize`.
    """

    axes: tuple[int, ...]
    group: Group = ALONE

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        dtype: Any = np.float32,
    ) -> None:
        _require_positive("num_features", num_features)
        super().__init__((num_features,), affine, affine, dtype)
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.track_running_stats = track_running_stats
        if track_running_stats:
            self.running_mean = Buffer(np.zeros(num_features, dtype))
            self.running_var = Buffer(np.ones(num_features, dtype))
            self.num_batches_tracked = Counter(np.zeros((), np.int64))

    def extra_repr(self) -> str:
        options = {"eps": self.eps, "momentum": self.momentum, "affine": self.weight is not None}
        options["track_running_stats"] = self.track_running_stats
        return ", ".join([f"{self.num_features}", *(f"{name}={value}" for name, value in options.items())])

    def forward(self, x: Array) -> Array:
        if self.track_running_stats and (self.frozen or not self.training):
            self._check(x)
            mean, variance = self.running_mean.data, self.running_var.data
            y = F.batch_norm_fixed(x, mean, variance, *self._affine(), eps=self.eps)
            self.save_for_backward(_Fixed(variance, y.shape))
            return y
        return self._normalize(x)

    def clipped(self, x: Array, limits: Limits) -> Array:
        """Return the output of training, clipped to the limits of the ReLU after it; `backward` is that of both."""
        return self._normalize(x, limits)

    def _normalize(self, x: Array, limits: Limits | None = None) -> Array:
        self._check(x)
        group = self.group if self.training else ALONE
        weight, bias = self._affine()
        y, (mean, variance), cache = F.batch_norm_forward(x, weight, bias, eps=self.eps, limits=limits, group=group)
        self.save_for_backward(cache, None if limits is None else y)
        if self.track_running_stats:
            self._track(mean, variance, group.whole(x.size // self.num_features))
        return y

    def backward(self, dy: Array, *, input_gradient: bool = True) -> Array | None:
        cache = self.saved()
        if isinstance(cache, _Fixed):  # frozen: nothing but the input may need a gradient
            weight, _ = self._affine()
            dx = F.batch_norm_fixed_backward(dy, cache.shape, cache.variance, weight, eps=self.eps)
            return dx if input_gradient else None
        dx, dweight, dbias = F.batch_norm_backward(dy, cache, input_gradient=input_gradient)
        self._add_gradients(dweight, dbias)
        return dx

    def _check(self, x: Array) -> None:
        check_arrays(type(self).__name__, input=x)
        if x.ndim not in self.axes or x.shape[1] != self.num_features:
            places = " or ".join(["(N, C)", "(N, C, L)", "(N, C, H, W)"][axes - 2] for axes in self.axes)
            raise ValueError(f"expected input {places} with C={self.num_features}, got {x.shape}")

    def _track(self, mean: Array, variance: Array, values: int) -> None:
        if self.momentum is None:
            self.num_batches_tracked.count()
            momentum = 1 / self.num_batches_tracked.data  # counted on the device
        else:
            device_of(mean).host_numbers(self.num_batches_tracked.count)
            momentum = self.momentum
        averages = self.running_mean.data, self.running_var.data
        _update_running_averages(*averages, mean, variance, 1 - momentum, momentum, momentum * (values / (values - 1)))


@chain
def _update_running_averages(running_mean: Array, running_variance: Array, *operands: Any) -> None:
    mean, variance, one_minus_momentum, momentum, unbiased_momentum = operands
    running_mean *= one_minus_momentum
    running_mean += mean * momentum
    running_variance *= one_minus_momentum
    running_variance += variance * unbiased_momentum


class BatchNorm1d(BatchNorm):
    """Batch normalisation of `(N, C)` or `(N, C, L)`, each channel over the batch and all positions.

    In training the batch's own mean and variance are used, in evaluation their running averages (Ioffe and Szegedy
    2015). So are they in training while the module is frozen: then they do not change.

    Args:
        num_features: number of channels C.
        eps: added to the variance.
        momentum: weight of each batch in the running averages; None for the plain average of all batches.
        affine: whether there is a weight and a bias per channel.
        track_running_stats: False to keep no running averages and use the batch's statistics in evaluation too.
        dtype: of the parameters and averages, and therefore of the inputs.

    Attributes:
        running_mean, running_var: the running averages, `(C,)`; the variance is the unbiased one.
        num_batches_tracked: how many batches they include.

    Raises:
        ValueError: in training, if there is only one value per channel.
    """

    axes = (2, 3)


class BatchNorm2d(BatchNorm):
    """Batch normalisation of `(N, C, H, W)`; otherwise as `BatchNorm1d`."""

    axes = (4,)


class GroupNorm(Normalization):
    """Normalisation of each group of channels of each image, the same in training and evaluation (Wu and He 2018).

    Args:
        num_groups: into how many equal groups the channels are split.
        num_channels: number of channels C.
        eps: added to the variance.
        affine: whether there is a weight and a bias per channel.
        dtype: of the parameters, and therefore of the inputs.

    Shape: `(N, C, ...)` to the same.

    Raises:
        ValueError: if the groups do not divide the channels.
    """

    def __init__(
        self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True, *, dtype: Any = np.float32
    ) -> None:
        _require_positive("num_groups", num_groups)
        if num_channels < 1 or num_channels % num_groups:
            raise ValueError(f"num_groups must divide the channels, got {num_groups} for {num_channels} channels")
        super().__init__((num_channels,), affine, affine, dtype)
        self.num_groups, self.num_channels, self.eps = num_groups, num_channels, eps

    def extra_repr(self) -> str:
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.weight is not None}"

    def forward(self, x: Array) -> Array:
        check_arrays("GroupNorm", input=x)
        if x.ndim < 2 or x.shape[1] != self.num_channels:
            raise ValueError(f"expected input (N, {self.num_channels}, ...), got {x.shape}")
        y, cache = F.group_norm_forward(x, self.num_groups, *self._affine(), eps=self.eps)
        self.save_for_backward(cache)
        return y

    def backward(self, dy: Array, *, input_gradient: bool = True) -> Array | None:
        options = {"input_gradient": input_gradient, "parameter_gradients": not self.frozen}
        dx, dweight, dbias = F.group_norm_backward(dy, self.saved(), **options)
        self._add_gradients(dweight, dbias)
        return dx


class LayerNorm(Normalization):
    """Normalisation over the last axes of each sample, the same in training and evaluation (Ba et al. 2016).

    Args:
        normalized_shape: the lengths of those axes, one number or several, without the batch's.
        eps: added to the variance.
        elementwise_affine: whether there is a weight and a bias per element of `normalized_shape`.
        bias: False for a weight without a bias.
        dtype: of the parameters, and therefore of the inputs.

    Shape: `(N, ..., *normalized_shape)` to the same.
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        dtype: Any = np.float32,
    ) -> None:
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        _require_positive("normalized_shape", *shape)
        super().__init__(shape, elementwise_affine, elementwise_affine and bias, dtype)
        self.normalized_shape, self.eps = shape, eps

    def extra_repr(self) -> str:
        return (
            f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.weight is not None}, "
            f"bias={self.bias is not None}"
        )

    def forward(self, x: Array) -> Array:
        y, cache = F.layer_norm_forward(x, self.normalized_shape, *self._affine(), eps=self.eps)
        self.save_for_backward(cache)
        return y

    def backward(self, dy: Array, *, input_gradient: bool = True) -> Array | None:
        options = {"input_gradient": input_gradient, "parameter_gradients": not self.frozen}
        dx, dweight, dbias = F.layer_norm_backward(dy, self.saved(), **options)
        self._add_gradients(dweight, dbias)
        return dx


class LayerNorm2d(Normalization):
    """Normalisation over the channels of each pixel, the same in training and evaluation, as in ConvNeXt (Liu 2022).

    It is `LayerNorm` over the channels without a change of the order of axes, as torchvision's `LayerNorm2d`.

    Args:
        num_channels: number of channels C.
        eps: added to the variance.
        elementwise_affine: whether there is a weight and a bias per channel.
        bias: False for a weight without a bias.
        dtype: of the parameters, and therefore of the inputs.

    Shape: `(N, C, H, W)` to the same.
    """

    arithmetic: Arithmetic = "channel_normalization"

    def __init__(
        self,
        num_channels: int,
        eps: float = 1e-6,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        dtype: Any = np.float32,
    ) -> None:
        _require_positive("num_channels", num_channels)
        super().__init__((num_channels,), elementwise_affine, elementwise_affine and bias, dtype)
        self.num_channels, self.eps = num_channels, eps

    def extra_repr(self) -> str:
        return (
            f"{self.num_channels}, eps={self.eps}, elementwise_affine={self.weight is not None}, "
            f"bias={self.bias is not None}"
        )

    def forward(self, x: Array) -> Array:
        self._check(x)
        y, cache = F.layer_norm2d_forward(x, *self._affine(), eps=self.eps)
        self.save_for_backward(cache)
        return y

    def infer(self, x: Array, *, affine: bool) -> Array:
        """Return the output without what a backward pass needs, and without the weight and bias unless `affine`."""
        self._check(x)
        return F.layer_norm2d(x, *(self._affine() if affine else ()), eps=self.eps)

    def _check(self, x: Array) -> None:
        check_arrays("LayerNorm2d", input=x)
        if x.ndim != 4 or x.shape[1] != self.num_channels:
            raise ValueError(f"expected input (N, C, H, W) with C={self.num_channels}, got {x.shape}")

    def backward(self, dy: Array, *, input_gradient: bool = True) -> Array | None:
        options = {"input_gradient": input_gradient, "parameter_gradients": not self.frozen}
        dx, dweight, dbias = F.layer_norm2d_backward(dy, self.saved(), **options)
        self._add_gradients(dweight, dbias)
        return dx


def _require_positive(name: str, *values: int) -> None:
    if not values or min(values) < 1:
        raise ValueError(f"{name} must be at least 1, got {', '.join(map(str, values)) or 'none'}")
