"""Class weights for data sets in which some classes have few samples."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .dataset import Dataset


def class_weights(labels: Dataset | ArrayLike, num_classes: int | None = None) -> NDArray[np.float64]:
    """Return a weight for each class, such that all classes contribute equally to a weighted loss.

    The weight is `N / (num_classes · count)`, as scikit-learn's `"balanced"`: 1 if all classes are equally frequent.
    Give it to the loss of training: `nn.CrossEntropyLoss(weight=class_weights(train))`.

    Args:
        labels: a data set, usually the training part, or `(N,)` integers from 0 to `num_classes - 1`.
        num_classes: the number of classes; None for that of the data set, or for the largest label plus 1.

    Returns:
        `(num_classes,)` float64.

    Raises:
        ValueError: if the labels are no such integers, or a class has no samples; the message names it.
    """
    names: tuple[str, ...] | range
    if isinstance(labels, Dataset):
        values, names = labels.labels, labels.classes
    else:
        values = np.asarray(labels)
        if values.ndim != 1 or values.dtype.kind not in "iu" or not len(values):
            raise ValueError(f"class_weights: expected integers (N,), at least one, got {values.dtype} {values.shape}")
        names = range(int(values.max()) + 1 if num_classes is None else num_classes)
    if len(values) and not 0 <= values.min() <= values.max() < len(names):
        expected = f"expected labels from 0 to {len(names) - 1}"
        raise ValueError(f"class_weights: {expected}, got {values.min()} to {values.max()}")
    counts = np.bincount(values, minlength=len(names))
    if absent := [str(name) for name, count in zip(names, counts, strict=True) if count == 0]:
        more = ", …" if len(absent) > 5 else ""
        raise ValueError(f"class_weights: there are no samples of class {', '.join(absent[:5])}{more}")
    weights: NDArray[np.float64] = len(values) / (len(names) * counts)
    return weights
