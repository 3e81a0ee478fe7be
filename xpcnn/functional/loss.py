"""Losses: a number to make smaller, averaged over the batch once, here, and nowhere else."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..backend import Array, array_namespace, batch_last


class _Cache(NamedTuple):
    probabilities: Array  # (classes, N)
    targets: Array  # (classes, N), true at each label


def cross_entropy_forward(logits: Array, labels: Array) -> tuple[Array, Any]:
    """Return the mean softmax cross-entropy, `-log softmax(logits)[label]`, in nats.

    Computed from logits less their maximum, so that no logit over- or underflows.

    Args:
        logits: `(N, classes)`.
        labels: `(N,)` integers in `[0, classes)`. The range is the caller's to check, on the host: a check here
            would wait for the device. A label out of range counts as matching no class.

    Returns:
        a 0-d array on the same device, and what `cross_entropy_backward` needs.

    Raises:
        ValueError: if the shapes or the labels' dtype do not fit.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or labels.dtype.kind not in "iu":
        raise ValueError(
            f"expected logits (N, classes) and integer labels (N,), got {logits.shape} and "
            f"{labels.dtype} {labels.shape}"
        )
    xp = array_namespace(logits)
    shifted = batch_last(logits)
    shifted = shifted - shifted.max(axis=0)
    exponentials = xp.exp(shifted)
    total = exponentials.sum(axis=0)
    targets = xp.arange(logits.shape[1], dtype=labels.dtype)[:, None] == labels
    chosen = xp.where(targets, shifted, 0).sum(axis=0)
    return (xp.log(total) - chosen).mean(), _Cache(exponentials / total, targets)


def cross_entropy_backward(cache: Any) -> Array:
    """Return the gradient of the mean loss by the logits, `(softmax - one_hot) / N`."""
    probabilities, targets = cache
    return ((probabilities - targets) / targets.shape[1]).T
