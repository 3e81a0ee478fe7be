"""From labels of any kind to indices into classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Classes(NamedTuple):
    """The classes of a data set.

    Attributes:
        names: of the classes.
        values: the label that stands for each class: integers, or the names.
    """

    names: tuple[str, ...]
    values: NDArray[Any]

    @classmethod
    def of_labels(cls, labels: NDArray[Any]) -> Classes:
        """Return the distinct labels, sorted, as classes."""
        distinct = np.unique(of_one_kind(labels))
        return cls(tuple(str(value) for value in distinct.tolist()), distinct)

    @classmethod
    def of_names(cls, names: Sequence[str]) -> Classes:
        """Return classes whose integer labels are indices.

        Raises:
            ValueError: if a name is no string, or there twice.
        """
        if isinstance(names, str) or not all(isinstance(name, str) for name in names) or len({*names}) < len(names):
            raise ValueError(f"expected names of classes, each once, got {names!r:.80}")
        return cls(tuple(names), np.arange(len(names)))

    @classmethod
    def of_spec(cls, names: Sequence[str]) -> Classes:
        """Return classes of which the names were kept; names that are all integers were integer labels."""
        if all(name.removeprefix("-").isdecimal() for name in names):
            return cls(tuple(names), np.array([int(name) for name in names]))
        return cls.of_names(names)

    def indices(self, labels: NDArray[Any]) -> NDArray[np.int64]:
        """Return the index of each label's class.

        Raises:
            ValueError: if a label is of another kind than the classes, or stands for none of them.
        """
        labels = of_one_kind(labels)
        integers = labels.dtype.kind in "iu"
        known = self.values if integers else np.array(self.names, dtype=str)
        if known.dtype.kind == "U" and integers:
            raise ValueError(f"expected labels that are strings, as in training, got {labels.dtype}")
        order = np.argsort(known, kind="stable").astype(np.int64)
        places = np.searchsorted(known, labels, sorter=order)
        found = places < len(known)
        indices = order[places * found] if len(known) else places
        wrong = np.flatnonzero(~found) if not len(known) else np.flatnonzero(known[indices] != labels)
        if len(wrong):
            names = ", ".join(map(str, known[:8].tolist())) + (", …" if len(known) > 8 else "")
            raise ValueError(f"the label {labels[wrong[0]]} of image {wrong[0]} is none of the classes {names}")
        return indices


def of_one_kind(labels: NDArray[Any]) -> NDArray[Any]:
    """Return labels as integers or strings.

    Raises:
        ValueError: if they are neither.
    """
    if labels.dtype.kind == "O" and all(isinstance(label, str) for label in labels):
        return labels.astype(str)
    if labels.dtype.kind == "b" or not len(labels):
        return labels.astype(np.int64)
    if labels.dtype.kind not in "iuU":
        raise ValueError(f"expected labels that are integers or strings, got {labels.dtype}")
    return labels
