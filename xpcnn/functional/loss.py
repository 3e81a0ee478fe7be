"""Losses: a number to make smaller, averaged over the batch once, here, and nowhere else."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..backend import Array, array_namespace, batch_first, batch_last, chain, device_of
from .activation import sigmoid


class _CrossEntropyCache(NamedTuple):
    exponentials: Array  # (classes, N), of the logits less their maximum
    total: Array  # (N,): what those of one sample add up to
    targets: Array  # (classes, N): what the probabilities should be, weighted
    target_sum: Array | int  # (N,): what the targets of one sample add up to
    divisor: Array | int  # what the sum of the losses is divided by


def cross_entropy_forward(
    logits: Array, labels: Array, weight: Array | None = None, *, label_smoothing: float = 0.0
) -> tuple[Array, Any]:
    """Return the mean softmax cross-entropy, `-log softmax(logits)[label]`, in nats.

    Computed from logits less their maximum, so that no logit over- or underflows.

    Args:
        logits: `(N, classes)`.
        labels: `(N,)` integers in `[0, classes)`. One out of range is refused on the host, and makes the loss NaN on a
            GPU, where a look at it would wait for the device.
        weight: `(classes,)`, how much a sample of each class counts in the mean; None for all alike.
        label_smoothing: what part of each target is spread over all classes evenly (Szegedy et al. 2016), each with
            its own weight, while a sample still counts by the weight of its label; in `[0, 1]`.

    Returns:
        a 0-d array on the same device, and what `cross_entropy_backward` needs.

    Raises:
        ValueError: if the shapes, the labels or the smoothing do not fit.
    """
    check_labels(logits, labels)
    classes = logits.shape[1]
    if weight is not None and weight.shape != (classes,):
        raise ValueError(f"expected weight ({classes},) for logits {logits.shape}, got {weight.shape}")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing must be from 0 to 1, got {label_smoothing}")
    by_class = batch_last(logits)
    shifted, exponentials = _shift(by_class, by_class.max(axis=0))
    total = exponentials.sum(axis=0)
    targets = _one_hot(logits, labels)
    target_sum = 1  # what the targets of one sample add up to
    divisor = labels.shape[0]
    if weight is not None:
        targets = targets * weight[:, None]
        target_sum = targets.sum(axis=0)
        divisor = target_sum.sum()
    if label_smoothing:
        per_class, on_label = logits.dtype.type(label_smoothing / classes), logits.dtype.type(1 - label_smoothing)
        targets = targets * on_label + (per_class if weight is None else per_class * weight[:, None])
        target_sum = 1 if weight is None else targets.sum(axis=0)
    expected = _expected(shifted, targets).sum(axis=0)
    loss = _losses(total, expected, labels, classes, target_sum, divisor).sum()
    return loss, _CrossEntropyCache(exponentials, total, targets, target_sum, divisor)


@chain
def _shift(logits: Array, maximum: Array) -> tuple[Array, Array]:
    shifted = logits - maximum
    return shifted, array_namespace(logits).exp(shifted)


@chain
def _expected(shifted: Array, targets: Array) -> Array:
    # A logit whose target is 0 has no say, be it infinite.
    return array_namespace(shifted).where(targets != 0, shifted, 0) * targets


@chain
def _losses(total: Array, expected: Array, labels: Array, classes: int, target_sum: Any, divisor: Any) -> Array:
    xp = array_namespace(total)
    return xp.where((labels >= 0) & (labels < classes), (target_sum * xp.log(total) - expected) / divisor, xp.nan)


def cross_entropy_backward(cache: Any) -> Array:
    """Return the gradient of the mean loss by the logits, `(softmax - one_hot) / N` in the plain case."""
    return _cross_entropy_gradient(*cache).T


@chain
def _cross_entropy_gradient(exponentials: Array, total: Array, targets: Array, target_sum: Any, divisor: Any) -> Array:
    return (exponentials / total * target_sum - targets) / divisor


def hinge_forward(scores: Array, labels: Array, *, margin: float = 1.0) -> tuple[Array, Any]:
    """Return the mean multi-class support vector loss, `Σ max(0, s_j - s_label + margin)` over the wrong classes j.

    Weston and Watkins 1999, as taught in CS231n.

    Args:
        scores: `(N, classes)`.
        labels: `(N,)` integers in `[0, classes)`; see `cross_entropy_forward`.
        margin: by how much the right score has to lead.

    Returns:
        a 0-d array on the same device, and what `hinge_backward` needs.

    Raises:
        ValueError: if the shapes or the labels do not fit.
    """
    check_labels(scores, labels)
    xp = array_namespace(scores)
    targets = _one_hot(scores, labels)
    scores = batch_last(scores)
    right = xp.where(targets, scores, 0).sum(axis=0)
    excess = xp.where(targets, 0, xp.maximum(scores - right + margin, 0))
    classes = scores.shape[0]
    in_range = xp.where((labels >= 0) & (labels < classes), 0, xp.nan).astype(scores.dtype)
    return (excess.sum(axis=0) + in_range).sum() / labels.shape[0], ((excess > 0).astype(scores.dtype), targets)


def hinge_backward(cache: Any) -> Array:
    """Return the gradient of the mean loss by the scores; a class just at the margin has none."""
    violations, targets = cache
    N = targets.shape[1]
    xp = array_namespace(targets)
    return (xp.where(targets, -violations.sum(axis=0), violations) / N).T


def mean_squared_error_forward(x: Array, target: Array) -> tuple[Array, Any]:
    """Return the mean of `(x - target)²` over all elements, and what `mean_squared_error_backward` needs.

    Args:
        x, target: arrays of one shape, `(N, ...)`.

    Raises:
        ValueError: if the shapes differ.
    """
    difference = batch_last(x) - _matching(x, target)
    return (difference * difference).mean(), difference


def mean_squared_error_backward(cache: Any) -> Array:
    """Return the gradient of the mean loss by `x`."""
    return batch_first(cache * (2 / cache.size))


def binary_cross_entropy_forward(logits: Array, target: Array) -> tuple[Array, Any]:
    """Return the mean of `-target·log(p) - (1 - target)·log(1 - p)` over all elements, where `p = sigmoid(logits)`.

    Computed as `max(x, 0) - x·target + log(1 + exp(-|x|))`, so that no logit over- or underflows.

    Args:
        logits, target: arrays of one shape, `(N, ...)`; the targets are probabilities.

    Returns:
        a 0-d array on the same device, and what `binary_cross_entropy_backward` needs.

    Raises:
        ValueError: if the shapes differ.
    """
    xp = array_namespace(logits)
    x, target = batch_last(logits), _matching(logits, target)
    losses = xp.maximum(x, 0) - x * target + xp.log1p(xp.exp(-abs(x)))
    return losses.mean(), (x, target)


def binary_cross_entropy_backward(cache: Any) -> Array:
    """Return the gradient of the mean loss by the logits, `(sigmoid(x) - target) / size`."""
    x, target = cache
    return batch_first((sigmoid(x) - target) / x.size)


def check_labels(scores: Array, labels: Array) -> None:
    """Raise ValueError unless labels `(N,)` fit scores `(N, classes)`; their range is checked on the host only."""
    if scores.ndim != 2 or labels.shape != scores.shape[:1] or labels.dtype.kind not in "iu":
        raise ValueError(
            f"expected logits (N, classes) and integer labels (N,), got {scores.shape} and "
            f"{labels.dtype} {labels.shape}"
        )
    if device_of(labels).on_host and len(labels):
        low, high, classes = labels.min(), labels.max(), scores.shape[1]
        if not 0 <= low <= high < classes:
            raise ValueError(f"expected labels from 0 to {classes - 1}, got {low} to {high}")


def _one_hot(scores: Array, labels: Array) -> Array:
    """Return `(classes, N)`, true at each label."""
    return array_namespace(scores).arange(scores.shape[1])[:, None] == labels


def _matching(x: Array, target: Array) -> Array:
    if x.shape != target.shape or not x.ndim:
        raise ValueError(f"expected a target of the input's shape {x.shape}, got {target.shape}")
    return batch_last(target.astype(x.dtype, copy=False))
