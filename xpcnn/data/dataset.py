"""Labelled images in memory, and reading a data set known by name."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from .catalog import DatasetInfo, Split, dataset_info
from .download import download_files
from .errors import DataError
from .folder import data_folder


@dataclass(frozen=True, eq=False)  # comparing arrays has no one truth value
class Dataset:
    """Labelled images, held in memory as they are stored in files.

    Attributes:
        name: the data set's name.
        split: `"train"` or `"test"`.
        images: `(N, C, H, W)` uint8.
        labels: `(N,)` int64, indices into `classes`.
        classes: the names of the classes.
        mean: the mean of each channel, pixels scaled to [0, 1], for the loader to normalise by; None if not known.
        std: the standard deviation of each channel, likewise.

    Raises:
        DataError: if shapes, data types, labels or statistics do not fit.
    """

    name: str
    split: Split
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.ndim != 4 or images.dtype != np.uint8:
            raise DataError(f"{self}: expected images (N, C, H, W) uint8, got {images.shape} {images.dtype}")
        if labels.shape != images.shape[:1] or labels.dtype != np.int64:
            raise DataError(f"{self}: expected labels ({len(images)},) int64, got {labels.shape} {labels.dtype}")
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(self.classes):
            expected = f"expected labels from 0 to {len(self.classes) - 1}"
            raise DataError(f"{self}: {expected}, got {labels.min()} to {labels.max()}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) != images.shape[1]:
                raise DataError(f"{self}: expected {images.shape[1]} values of {name}, got {values}")
        if self.std is not None and not all(value > 0 for value in self.std):
            raise DataError(f"{self}: expected positive values of std, got {self.std}")

    def __str__(self) -> str:
        return f"{self.name} ({self.split})"

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, indices: slice | Sequence[int] | NDArray[Any]) -> "Dataset":
        """Return the chosen samples in the given order; a slice shares memory with this data set, indices copy."""
        rows = indices if isinstance(indices, slice | np.ndarray) else list(indices)
        return replace(self, images=self.images[rows], labels=self.labels[rows])


def load_dataset(
    name: str, split: Split = "train", data_dir: str | os.PathLike[str] | None = None, download: bool = True
) -> Dataset:
    """Read one split of a data set into memory.

    Args:
        name: a key of `DATASETS`. `mnist-mini` comes with the package; the others are files in a folder.
        split: `"train"` or `"test"`.
        data_dir: the folder above the data set's own; see `data_folder`.
        download: fetch absent files from their public addresses; if false, their absence is an error.

    Raises:
        ValueError: if the name or the split is unknown.
        DataError: if a file is absent and cannot be fetched, is damaged, or is not the published one (its SHA-256).
    """
    info = dataset_info(name)
    if split not in get_args(Split):
        raise ValueError(f"unknown split {split!r}: expected one of {', '.join(get_args(Split))}")
    if info.embedded:
        arrays = _read_embedded(info, split)
    else:
        folder = data_folder(data_dir) / info.folder
        published = info.files[split]
        # A FIFO or a broken link of that name is not replaced by a download: reading it says what is wrong.
        absent = {file: known.size for file, known in published.items() if not os.path.lexists(folder / file)}
        if absent and not download:
            raise DataError(f"{name}: {', '.join(absent)} not found in {folder}, and downloading is off")
        if absent:

            def check(path: Path) -> None:
                info.format.read_published(path, published[path.name])

            archive = None if info.archive is None else (info.archive, info.size)
            download_files(info.mirrors, folder, absent, check, archive=archive)
        try:
            arrays = [info.format.read_published(folder / file, known) for file, known in published.items()]
        except DataError as error:
            raise DataError(f"{error}; remove the file to have it downloaded") from error
    images, labels = info.format.join(arrays)
    return Dataset(name, split, images, labels, info.classes, info.mean, info.std)


def _read_embedded(info: DatasetInfo, split: Split) -> list[NDArray[np.uint8]]:
    arrays = []
    for file, published in info.files[split].items():
        with as_file(files("xpcnn.data") / info.folder / file) as path:  # a real path even where the package is zipped
            arrays.append(info.format.read_published(path, published))
    return arrays
