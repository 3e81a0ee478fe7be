"""Labelled images, and what a network must know of them."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..random import stream
from .classes import Classes
from .errors import DataError
from .rows import Rows, take
from .spec import DataSpec, pixels_of
from .statistics import Statistics, blocks


class Dataset:
    """Labelled images, and what a network must know of them: classes, mean and standard deviation.

    These three belong to the training images. Both parts of a `split` have those of the training part; give a separate
    test set those of the training set by `like`.

    Args:
        images: `(N, C, H, W)` or `(N, H, W)`: uint8, which the loader divides by 255, or float, taken as it is. Of a
            memory map, parts are read when they are needed.
        labels: `(N,)`, integers of any type, or strings.
        classes: the names of the classes; integer labels are indices into them. If None, the classes are the distinct
            labels, sorted.
        mean: of each channel, bytes scaled to [0, 1]; if None, that of the images, computed when it is needed.
        std: the standard deviation of each channel, likewise; 1 for a channel that is constant.
        like: the training set, or its `spec`: classes, mean, std and drawing are taken from it.
        drawing: whether the images are light figures, centred on a dark background; see `read_image`.
        name: of the data set, for messages.
        part: which part of it this is, such as `"train"`, for messages.

    Attributes:
        images: `(N, C, H, W)`, as they were given.
        labels: `(N,)` int64, indices into `classes`.

    Raises:
        DataError: if shapes, data types, labels or statistics do not fit, or a pixel is not finite.

    Example:

        train, test = Dataset(X, y).split(0.8, seed=0)
        test = Dataset(X_test, y_test, like=train)
    """

    def __init__(
        self,
        images: ArrayLike | Rows,
        labels: ArrayLike,
        *,
        classes: Sequence[str] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        like: Dataset | DataSpec | None = None,
        drawing: bool = False,
        name: str = "data",
        part: str = "",
    ) -> None:
        self.name, self.part, self.drawing = name, part, drawing
        if like is not None and not (classes is None and mean is None and std is None):
            raise DataError(f"{self}: give classes, mean and std, or like, not both")
        self.images = self._checked(images)
        values = np.asarray(labels)
        if values.shape != self.images.shape[:1]:
            raise DataError(f"{self}: expected labels ({len(self.images)},), got {values.shape}")
        try:
            if like is not None:
                self._take_over(like)
            else:
                self._classes = Classes.of_labels(values) if classes is None else Classes.of_names(classes)
                self._statistics = Statistics(self.images, mean, std)
                self._own_statistics = mean is None or std is None
                self._check_statistics(mean, std)
            self.labels = self._classes.indices(values)
        except ValueError as error:
            raise DataError(f"{self}: {error}") from None

    @classmethod
    def from_folder(
        cls,
        path: str | os.PathLike[str],
        size: int | None = None,
        *,
        test_share: float = 0.2,
        like: Dataset | DataSpec | None = None,
        skip_bad: bool = False,
        cache_dir: str | os.PathLike[str] | None = None,
        progress: bool = False,
    ) -> tuple[Dataset, Dataset]:
        """Read a folder of pictures, with one subfolder for each class; needs Pillow.

        The pictures are decoded once, on all cores, to a file in the user's cache, from which they are mapped into
        memory: there may be more of them than memory. Changes of the folder are noticed by the files' names, sizes and
        times. Files of other suffixes than those of pictures are ignored, hidden files and folders as well. Pictures in
        subfolders of a class belong to the class.

        Args:
            path: the folder. It has a subfolder for each class, or `train` and `test` (or `val`) with such subfolders.
            size: images are `size × size`: pictures are scaled, and what is beyond the middle square is cut off. If
                None, they keep their size if all have the same, of 64 pixels a side or less; else it is 64.
            test_share: which part of a folder without `train` and `test` becomes the test part, about. A hash of its
                path decides for each picture, so it stays in its part when others are added. Each class is in both.
            like: the training set, or its spec, of a network that is to classify the pictures: they get its shape, and
                the folder may have its classes only, not necessarily all of them. `size` is not used then.
            skip_bad: leave out files that cannot be read, and print how many.
            cache_dir: where decoded pictures are kept, in a folder `folders`; see `data_folder`.
            progress: show a progress bar on stderr while decoding.

        Returns:
            The training and the test part, both with the mean and std of the training part, or those of `like`. Images
            are grey, `(N, 1, H, W)`, if all pictures are, else `(N, 3, H, W)`; memory-mapped uint8, in the order of
            classes and paths.

        Raises:
            DataError: if there are fewer than two classes, a class is empty or unknown, files cannot be read, or the
                cache cannot be written.
            ValueError: if `size` or `test_share` is out of range.
            ImportError: if Pillow is not installed.
        """
        from .image_folder import read_folder

        shape, classes, drawing = (None, None, False) if like is None else (like.shape, like.classes, like.drawing)
        name, classes, *parts = read_folder(
            path,
            size=size,
            test_share=test_share,
            shape=shape,
            classes=classes,
            drawing=drawing,
            skip_bad=skip_bad,
            cache_dir=cache_dir,
            progress=progress,
        )
        training, testing = parts
        if like is None:
            train = cls(training.images, training.labels, classes=classes, name=name, part="train")
        else:
            train = cls(training.images, training.labels, like=like, name=name, part="train")
        return train, cls(testing.images, testing.labels, like=like or train, name=name, part="test")

    def __str__(self) -> str:
        return f"{self.name} ({self.part})" if self.part else self.name

    def __repr__(self) -> str:
        return f"<Dataset {self}: {len(self):,} images {self.shape} of {self.images.dtype}, {self.num_classes} classes>"

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(C, H, W)` of an image."""
        _, C, H, W = self.images.shape
        return C, H, W

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self._classes.names

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.classes)

    @property
    def mean(self) -> tuple[float, ...]:
        """The mean of each channel over the training images, pixels of bytes scaled to [0, 1]."""
        return self._statistics.mean

    @property
    def std(self) -> tuple[float, ...]:
        """The standard deviation of each channel over the training images, likewise; always positive."""
        return self._statistics.std

    @property
    def spec(self) -> DataSpec:
        """What a network must know of the data set."""
        pixels: Any = pixels_of(self.images.dtype)
        return DataSpec(self.shape, self.classes, self.mean, self.std, pixels, self.drawing)

    def subset(self, indices: slice | Sequence[int] | NDArray[Any]) -> Dataset:
        """Return the chosen samples in the given order, with the classes, mean and std of this data set.

        A slice shares memory with this data set; indices copy, unless the images are memory-mapped.
        """
        rows = indices if isinstance(indices, slice | np.ndarray) else np.asarray(list(indices), np.intp)
        part = copy.copy(self)
        if isinstance(rows, slice) and not isinstance(self.images, Rows):
            part.images = self.images[rows]
        else:
            part.images = take(self.images, np.arange(len(self))[rows])
        part.labels = self.labels[rows]
        part._own_statistics = False
        return part

    def split(self, fraction: float = 0.8, seed: int = 0) -> tuple[Dataset, Dataset]:
        """Return a training and a test part, drawn at random, with every class in both in the same proportion.

        Args:
            fraction: of the samples that go into the training part; their number is exact, unless a class has too few
                samples for both parts.
            seed: the same seed draws the same samples.

        Returns:
            the two parts, each in the order of this data set. Both have the mean and std of the training part, or
            those that this data set was given.

        Raises:
            DataError: if a class has one sample only, or there are no samples.
            ValueError: if the fraction is not between 0 and 1, or the seed is negative.
        """
        if not 0 < fraction < 1:
            raise ValueError(f"expected a fraction between 0 and 1, got {fraction!r}")
        counts = np.bincount(self.labels, minlength=self.num_classes)
        if len(self) == 0 or (counts == 1).any():
            alone = ", ".join(self.classes[i] for i in np.flatnonzero(counts == 1)[:5])
            raise DataError(
                f"{self}: a split needs two samples of each class, got {f'one of {alone}' if alone else 'none'}"
            )
        chosen = np.zeros(len(self), bool)
        for label, count in enumerate(_shares(counts, fraction)):
            rows = np.flatnonzero(self.labels == label)
            chosen[rows[stream(seed, "split", label).permutation(len(rows))[:count]]] = True
        train, test = (self.subset(np.flatnonzero(rows)) for rows in (chosen, ~chosen))
        if self._own_statistics:
            train._statistics = test._statistics = Statistics(train.images)
        train.part, test.part = "train", "test"
        return train, test

    def _take_over(self, like: Dataset | DataSpec) -> None:
        """Take classes, statistics and `drawing` from training images of the same shape and kind."""
        if isinstance(like, Dataset):
            shape, pixels = like.shape, pixels_of(like.images.dtype)
            self._classes, self._statistics = like._classes, like._statistics
        else:
            shape, pixels = like.shape, like.pixels
            self._classes = Classes.of_spec(like.classes)
            self._statistics = Statistics(None, like.mean, like.std)
        self.drawing, self._own_statistics = like.drawing, False
        if self.shape != shape or pixels_of(self.images.dtype) != pixels:
            expected = f"expected images (C, H, W) = {shape} of {pixels}, as in training"
            raise ValueError(f"{expected}, got {self.shape} of {self.images.dtype}")

    def _checked(self, images: ArrayLike | Rows) -> NDArray[Any] | Rows:
        """Return images `(N, C, H, W)`."""
        found: Any = images if isinstance(images, np.ndarray | Rows) else np.asarray(images)
        if found.ndim == 3 and isinstance(found, np.ndarray):
            found = found[:, None]
        if found.ndim != 4 or pixels_of(found.dtype) not in ("uint8", "float") or 0 in found.shape[1:]:
            expected = "expected images (N, C, H, W) or (N, H, W), uint8 or float"
            raise DataError(f"{self}: {expected}, got {found.shape} {found.dtype}")
        if found.shape[1] == found.shape[2] > 4 and found.shape[3] in (3, 4):
            raise DataError(
                f"{self}: expected images (N, C, H, W), got {found.shape}, which look like (N, H, W, C): "
                "use images.transpose(0, 3, 1, 2)"
            )
        if found.dtype.kind == "f":
            for first, block in blocks(found):
                if not (finite := np.isfinite(block)).all():
                    row = first + int(np.flatnonzero(~finite.reshape(len(block), -1).all(axis=1))[0])
                    raise DataError(f"{self}: image {row} has pixels that are nan or infinite")
        return found  # type: ignore[no-any-return]

    def _check_statistics(self, mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
        for name, values in (("mean", mean), ("std", std)):
            if values is not None and (len(values) != self.shape[0] or not np.isfinite(values).all()):
                raise ValueError(f"expected {self.shape[0]} values of {name}, got {values}")
        if std is not None and not all(value > 0 for value in std):
            raise ValueError(f"expected positive values of std, got {std}")


def _shares(counts: NDArray[np.intp], fraction: float) -> list[int]:
    """Return how many samples of each class go into the training part: `fraction` of them, at least one, not all."""
    lowest, highest = np.minimum(counts, 1), np.maximum(counts - 1, 0)
    ideal = counts * fraction
    shares = np.clip(np.floor(ideal).astype(int), lowest, highest)
    missing = round(fraction * counts.sum()) - shares.sum()
    # The classes that are furthest below, or above, their share are the first to get, or lose, one more.
    for label in np.argsort(shares - ideal if missing > 0 else ideal - shares, kind="stable"):
        step = np.sign(missing)
        if step and lowest[label] <= shares[label] + step <= highest[label]:
            shares[label] += step
            missing -= step
    return shares.tolist()  # type: ignore[no-any-return]
