"""Losses, each with its gradient; both are means over the batch, so nothing else divides by the batch size."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import add
from typing import Any, NamedTuple

from ..backend import Array, Device, array_namespace, batch_first, batch_last, chain, device_of
from .activation import write_sigmoid
from .batch_norm import blocks_in_cache
from .checks import check_arrays, check_input


class _CrossEntropyCache(NamedTuple):
    exponentials: Array  # (classes, N): of the logits minus their maximum
    total: Array  # (N,): their sum over the classes
    targets: Array  # (classes, N): target probabilities, times the class weights
    target_sum: Array | int | None  # (N,): their sum over the classes, or 1; None for 0 where one is left out, else 1
    divisor: Array | int  # of the summed losses: the number of samples that count, or the sum of their weights
    labels: Array | None  # (N,), if there is no `target_sum`
    ignore_index: int


def cross_entropy_forward(
    logits: Array,
    labels: Array,
    weight: Array | None = None,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> tuple[Array, Any]:
    """Return the mean softmax cross-entropy, `-log softmax(logits)[label]`, in nats.

    Computed from the logits minus their maximum, so that nothing overflows.

    Args:
        logits: `(N, classes)`.
        labels: `(N,)` integers in `[0, classes)`, or `ignore_index`. Any other label raises ValueError on the host and
            makes the loss NaN on a GPU, where checking it would wait for the device.
        weight: `(classes,)`, the weight of each class in the mean; None for equal weights. It is converted to the dtype
            of the logits.
        ignore_index: samples with this label are left out of the mean, and their gradient is 0. The mean over no
            sample at all is NaN.
        label_smoothing: the part of each target that is spread evenly over all classes (Szegedy et al. 2016), in
            `[0, 1]`. With class weights, as in PyTorch, each class's part has its own weight, and the sum of losses is
            divided by the labels' weights.

    Returns:
        a 0-d array on the same device, and what `cross_entropy_backward` needs.

    Raises:
        TypeError: if an argument is not an array.
        ValueError: if the shapes, dtypes, labels or the smoothing do not fit, or there are no samples.
    """
    all_in_range = _check_scores("cross_entropy_forward", logits, labels, ignore_index)
    classes = logits.shape[1]
    if weight is not None:
        check_arrays("cross_entropy_forward", weight=weight)
    if weight is not None and weight.shape != (classes,):
        raise ValueError(f"expected weight ({classes},) for logits {logits.shape}, got {weight.shape}")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing must be from 0 to 1, got {label_smoothing}")
    by_class = batch_last(logits)
    device = device_of(by_class)
    shifted, exponentials = (device.empty(by_class.shape, by_class.dtype) for _ in range(2))
    targets = device.empty(by_class.shape, bool)
    indices, maximum = device.xp.arange(classes)[:, None], by_class.max(axis=0)

    def exponentiate(rows: slice) -> Array:
        arrays = (array[rows] for array in (shifted, exponentials, targets))
        _shift(by_class[rows], maximum, indices[rows], labels, *arrays)
        return exponentials[rows].sum(axis=0)

    row_blocks = blocks_in_cache(by_class, device)
    total = reduce(add, _map(exponentiate, row_blocks, device))
    target_sum: Any = 1
    divisor: Any = labels.shape[0]
    none_ignored = all_in_range and not 0 <= ignore_index < classes
    if not none_ignored:
        target_sum, divisor = None, device.summed(_kept, labels, ignore_index, logits.dtype.type(1))
        if 0 <= ignore_index < classes:
            targets = targets * _kept(labels, ignore_index, logits.dtype.type(1))
    if weight is not None:
        weight = weight.astype(logits.dtype, copy=False)[:, None]
        targets = targets * weight
        target_sum = targets.sum(axis=0)
        divisor = target_sum.sum()
    if label_smoothing:
        per_class, on_label = logits.dtype.type(label_smoothing / classes), logits.dtype.type(1 - label_smoothing)
        spread = per_class if weight is None else per_class * weight
        if not none_ignored:
            spread = spread * _kept(labels, ignore_index, logits.dtype.type(1))
        targets = targets * on_label + spread
        if weight is not None:
            target_sum = targets.sum(axis=0)

    def expect(rows: slice) -> Array:
        return device.summed(_expected, shifted[rows], targets[rows], axis=0)

    expected = reduce(add, _map(expect, row_blocks, device))
    checked = device_of(labels).on_host
    loss = device.summed(
        _losses, total, expected, labels, ignore_index, target_sum, divisor, None if checked else classes
    )
    needed = labels if target_sum is None else None
    return loss, _CrossEntropyCache(exponentials, total, targets, target_sum, divisor, needed, ignore_index)


def _map(function: Callable[[slice], Any], row_blocks: list[slice], device: Device) -> list[Any]:
    """Return what a function returns for each block of rows; of a small array, which is one, with little ado."""
    return [function(row_blocks[0])] if len(row_blocks) == 1 else device.map(function, row_blocks)


@chain
def _shift(logits: Array, maximum: Array, indices: Array, labels: Array, *results: Array) -> None:
    xp, (shifted, exponentials, is_label) = array_namespace(logits), results
    xp.equal(indices, labels, out=is_label)
    xp.subtract(logits, maximum, out=shifted)
    xp.exp(shifted, out=exponentials)


@chain
def _kept(labels: Array, ignore_index: int, one: Any) -> Array:
    return (labels != ignore_index) * one


@chain
def _expected(shifted: Array, targets: Array) -> Array:
    # A logit whose target is 0 does not contribute, even if it is infinite.
    xp = array_namespace(shifted)
    return xp.where(targets, shifted, 0) if targets.dtype == bool else xp.where(targets != 0, shifted, 0) * targets


@chain
def _losses(total: Array, expected: Array, labels: Array, ignore_index: int, *operands: Any) -> Array:
    target_sum, divisor, classes = operands
    xp = array_namespace(total)
    if target_sum is None:
        target_sum = labels != ignore_index
    losses = (target_sum * xp.log(total) - expected) / divisor
    if classes is None:
        return losses
    return xp.where((labels >= 0) & (labels < classes) | (labels == ignore_index), losses, xp.nan)


def cross_entropy_backward(cache: Any) -> Array:
    """Return the gradient w.r.t. the logits, `(N, classes)`: `(softmax - one_hot) / N` without options.

    Args:
        cache: what the forward call returned.
    """
    exponentials, total, targets, *numbers = cache
    device = device_of(exponentials)
    gradient = device.empty(exponentials.shape, exponentials.dtype)

    def differentiate(rows: slice) -> None:
        _cross_entropy_gradient(exponentials[rows], total, targets[rows], *numbers, gradient[rows])

    _map(differentiate, blocks_in_cache(exponentials, device), device)
    return gradient.T


@chain
def _cross_entropy_gradient(exponentials: Array, total: Array, targets: Array, *operands: Any) -> None:
    target_sum, divisor, labels, ignore_index, gradient = operands
    if target_sum is None:
        target_sum = labels != ignore_index
    array_namespace(exponentials).divide(exponentials, total, out=gradient)
    if not isinstance(target_sum, int):  # else it is 1
        gradient *= target_sum
    gradient -= targets
    # A divisor of 0 means that all samples were ignored: their gradients are 0, as in PyTorch, though the loss is NaN.
    gradient /= divisor + (divisor == 0)


def hinge_forward(scores: Array, labels: Array, *, margin: float = 1.0) -> tuple[Array, Any]:
    """Return the mean multi-class support vector loss, `Σ max(0, s_j - s_label + margin)` over the wrong classes j.

    Weston and Watkins 1999, as taught in CS231n.

    Args:
        scores: `(N, classes)`.
        labels: `(N,)` integers in `[0, classes)`; see `cross_entropy_forward`.
        margin: by how much the label's score has to exceed the others for a loss of 0.

    Returns:
        a 0-d array on the same device, and what `hinge_backward` needs.

    Raises:
        TypeError: if an argument is not an array.
        ValueError: if the shapes, dtypes or labels do not fit, or there are no samples.
    """
    _check_scores("hinge_forward", scores, labels)
    xp = array_namespace(scores)
    targets = _one_hot(scores, labels)
    scores = batch_last(scores)
    label_scores = xp.where(targets, scores, 0).sum(axis=0)
    excess = xp.where(targets, 0, xp.maximum(scores - label_scores + float(margin), 0))
    classes = scores.shape[0]
    in_range = xp.where((labels >= 0) & (labels < classes), 0, xp.nan).astype(scores.dtype)
    return (excess.sum(axis=0) + in_range).sum() / labels.shape[0], ((excess > 0).astype(scores.dtype), targets)


def hinge_backward(cache: Any) -> Array:
    """Return the gradient w.r.t. the scores, `(N, classes)`; a class exactly at the margin contributes 0.

    Args:
        cache: what the forward call returned.
    """
    violations, targets = cache
    N = targets.shape[1]
    xp = array_namespace(targets)
    return (xp.where(targets, -violations.sum(axis=0), violations) / N).T


def mean_squared_error_forward(x: Array, target: Array) -> tuple[Array, Any]:
    """Return the mean of `(x - target)²` over all elements, and what `mean_squared_error_backward` needs.

    Args:
        x, target: arrays of the same shape, `(N, ...)`.

    Returns:
        a 0-d array on the same device, and the cache.

    Raises:
        TypeError: if an argument is not an array.
        ValueError: if the shapes differ, there are no elements, or `x` has no floats.
    """
    target, x = _matching("mean_squared_error_forward", x, target), batch_last(x)
    device = device_of(x)
    difference = device.empty(x.shape, x.dtype)
    device.map_elements(_difference, x, target, difference)
    return device.summed(_square, difference) / x.size, difference


@chain
def _difference(x: Array, target: Array, difference: Array) -> None:
    array_namespace(x).subtract(x, target, out=difference)


@chain
def _square(x: Array) -> Array:
    return x * x


def mean_squared_error_backward(cache: Any) -> Array:
    """Return the gradient w.r.t. `x`, in its shape.

    Args:
        cache: what the forward call returned.
    """
    device = device_of(cache)
    dx = device.empty(cache.shape, cache.dtype)
    device.map_elements(_scaled, cache, 2 / cache.size, dx)
    return batch_first(dx)


@chain
def _scaled(x: Array, factor: float, y: Array) -> None:
    array_namespace(x).multiply(x, factor, out=y)


def binary_cross_entropy_forward(logits: Array, target: Array) -> tuple[Array, Any]:
    """Return the mean of `-target·log(p) - (1 - target)·log(1 - p)` over all elements, where `p = sigmoid(logits)`.

    Computed as `max(x, 0) - x·target + log(1 + exp(-|x|))`, so that nothing overflows.

    Args:
        logits, target: arrays of the same shape, `(N, ...)`; the targets are probabilities.

    Returns:
        a 0-d array on the same device, and what `binary_cross_entropy_backward` needs.

    Raises:
        TypeError: if an argument is not an array.
        ValueError: if the shapes differ, there are no elements, or `logits` has no floats.
    """
    target, x = _matching("binary_cross_entropy_forward", logits, target), batch_last(logits)
    return device_of(x).summed(_binary_losses, x, target) / x.size, (x, target)


@chain
def _binary_losses(x: Array, target: Array) -> Array:
    xp = array_namespace(x)
    return xp.maximum(x, 0) - x * target + xp.log1p(xp.exp(-xp.absolute(x)))


def binary_cross_entropy_backward(cache: Any) -> Array:
    """Return the gradient w.r.t. the logits, `(sigmoid(x) - target) / size`, in their shape.

    Args:
        cache: what the forward call returned.
    """
    x, target = cache
    device = device_of(x)
    dx = device.empty(x.shape, x.dtype)
    device.map_elements(_binary_gradient, x, target, x.size, dx, in_pieces=True)
    return batch_first(dx)


@chain
def _binary_gradient(x: Array, target: Array, size: int, dx: Array) -> None:
    write_sigmoid(x, dx)
    dx -= target
    dx /= size


def check_labels(scores: Array, labels: Array, ignore_index: int | None = None) -> bool:
    """Raise ValueError unless labels `(N,)` fit scores `(N, classes)`; their range is only checked on the host.

    Args:
        scores: `(N, classes)`.
        labels: `(N,)` integers in `[0, classes)`.
        ignore_index: another label that is allowed; None for none.

    Returns:
        whether all labels are known to be in `[0, classes)`; False on a GPU.
    """
    if scores.ndim != 2 or labels.shape != scores.shape[:1] or labels.dtype.kind not in "iu":
        raise ValueError(
            f"expected logits (N, classes) and integer labels (N,), got {scores.shape} and "
            f"{labels.dtype} {labels.shape}"
        )
    if not device_of(labels).on_host or not len(labels):
        return False
    classes = scores.shape[1]
    if labels.view(f"u{labels.dtype.itemsize}").max() < classes:  # where negative numbers are large ones
        return True
    counted = labels if ignore_index is None else labels[labels != ignore_index]
    if len(counted) and not 0 <= counted.min() <= counted.max() < classes:
        raise ValueError(f"expected labels from 0 to {classes - 1}, got {counted.min()} to {counted.max()}")
    return False


def _check_scores(function: str, scores: Array, labels: Array, ignore_index: int | None = None) -> bool:
    check_input(function, scores, "(N, classes)", float16=False)
    if not scores.size:
        raise ValueError(f"{function}: expected at least one sample and one class, got {scores.shape}")
    try:
        return check_labels(scores, labels, ignore_index)
    except AttributeError:
        check_arrays(function, labels=labels)
        raise


def _one_hot(scores: Array, labels: Array) -> Array:
    """Return `(classes, N)`, true at each label."""
    return array_namespace(scores).arange(scores.shape[1])[:, None] == labels


def _matching(function: str, x: Array, target: Array) -> Array:
    """Return the target in the batch-last layout and the dtype of `x`, after checking both."""
    check_input(function, x, float16=False)
    check_arrays(function, target=target)
    if x.shape != target.shape:
        raise ValueError(f"expected a target of the input's shape {x.shape}, got {target.shape}")
    if not x.size:
        raise ValueError(f"{function}: expected at least one element, got {x.shape}")
    return batch_last(target.astype(x.dtype, copy=False))
