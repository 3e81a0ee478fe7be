"""Labelled images, and the data sets known by name: one embedded in the package, three read from a folder."""

import hashlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from . import download as published
from .errors import DataError
from .formats.cifar import read_cifar
from .formats.idx import idx_header, read_idx

Split = Literal["train", "test"]


@dataclass(frozen=True, eq=False)  # comparing arrays has no one truth value
class Dataset:
    """Labelled images, held in memory as they are stored in files.

    Attributes:
        name: the data set's name.
        split: `"train"` or `"test"`.
        images: `(N, C, H, W)` uint8.
        labels: `(N,)` int64, indices into `classes`.
        classes: the names of the classes.

    Raises:
        DataError: if shapes, data types or labels are others.
    """

    name: str
    split: Split
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.ndim != 4 or images.dtype != np.uint8:
            raise DataError(f"{self}: expected images (N, C, H, W) uint8, got {images.shape} {images.dtype}")
        if labels.shape != images.shape[:1] or labels.dtype != np.int64:
            raise DataError(f"{self}: expected labels ({len(images)},) int64, got {labels.shape} {labels.dtype}")
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(self.classes):
            expected = f"expected labels from 0 to {len(self.classes) - 1}"
            raise DataError(f"{self}: {expected}, got {labels.min()} to {labels.max()}")

    def __str__(self) -> str:
        return f"{self.name} ({self.split})"

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, indices: slice | Sequence[int] | NDArray[Any]) -> "Dataset":
        """Return the chosen samples in the given order; a slice shares memory with this data set, indices copy."""
        rows = indices if isinstance(indices, slice | np.ndarray) else list(indices)
        return replace(self, images=self.images[rows], labels=self.labels[rows])


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a data set before it is read.

    Attributes:
        folder: the name of its folder, under the data folder (the embedded one: beside this file).
        files: the names of each split's files.
        classes: the names of its classes, in the order of the labels.
        mean: the mean of each channel over the training split, pixels scaled to [0, 1].
        std: the standard deviation of each channel, likewise.
        shape: `(C, H, W)` of an image.
        drawing: whether the images are light figures, centred on a dark ground.
    """

    folder: str
    files: Mapping[Split, tuple[str, ...]]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    shape: tuple[int, int, int] = (1, 28, 28)
    drawing: bool = True


_MNIST_FILES: dict[Split, tuple[str, ...]] = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
_CIFAR10_FILES: dict[Split, tuple[str, ...]] = {
    "train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    "test": ("test_batch.bin",),
}
_DIGITS = tuple("0123456789")
_FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

DATASETS: dict[str, DatasetInfo] = {
    # A sample of MNIST, normalised like the whole.
    "mnist-mini": DatasetInfo("mnist_mini", _MNIST_FILES, _DIGITS, (0.13066,), (0.30811,)),
    "mnist": DatasetInfo("mnist", _MNIST_FILES, _DIGITS, (0.13066,), (0.30811,)),
    "fashion-mnist": DatasetInfo("fashion-mnist", _MNIST_FILES, _FASHION, (0.28604,), (0.35302,)),
    "cifar10": DatasetInfo(
        "cifar-10-batches-bin",
        _CIFAR10_FILES,
        _CIFAR10,
        (0.49140, 0.48216, 0.44653),
        (0.24703, 0.24349, 0.26159),
        shape=(3, 32, 32),
        drawing=False,
    ),
}


def data_folder(data_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder that holds the data sets' folders: `data_dir`, else `$XPCNN_DATA`, else the user's cache."""
    if chosen := data_dir or os.environ.get("XPCNN_DATA"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        cache = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        cache = Path.home() / "Library" / "Caches"
    else:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "xpcnn"


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
    if name not in DATASETS:
        raise ValueError(f"unknown data set {name!r}: expected one of {', '.join(DATASETS)}")
    if split not in get_args(Split):
        raise ValueError(f"unknown split {split!r}: expected one of {', '.join(get_args(Split))}")
    info = DATASETS[name]
    names = info.files[split]
    if name not in published.SOURCES:
        arrays = [_read_embedded(info.folder, file) for file in names]
    else:
        folder, source = data_folder(data_dir) / info.folder, published.SOURCES[name]
        absent = [file for file in names if not (folder / file).is_file()]
        if absent and not download:
            raise DataError(f"{name}: {', '.join(absent)} not found in {folder}, and downloading is off")
        if absent:
            published.download(source, folder, absent, check=_read_published)
        try:
            arrays = [_read_published(folder / file, source.sha256[file]) for file in names]
        except DataError as error:
            raise DataError(f"{error}; remove the file to have it downloaded") from error
    images, labels = _join(arrays)
    return Dataset(name, split, images, labels, info.classes)


def _read_embedded(folder: str, file: str) -> NDArray[np.uint8]:
    with as_file(files("xpcnn.data") / folder / file) as path:  # a real path even where the package is a zip file
        return read_idx(path)


def _read_published(path: Path, sha256: str) -> NDArray[np.uint8]:
    """Read a file and refuse any content but the published one, however it is compressed."""
    array = read_cifar(path) if path.suffix == ".bin" else read_idx(path)
    # An array determines its IDX content, so the sum needs no second pass through gzip.
    digest = hashlib.sha256(b"" if path.suffix == ".bin" else idx_header(array))
    digest.update(array.reshape(-1).data)
    if digest.hexdigest() != sha256:
        raise DataError(f"{path}: not the published file (SHA-256 {digest.hexdigest()}, expected {sha256})")
    return array


def _join(arrays: list[NDArray[np.uint8]]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return `(N, C, H, W)` images and `(N,)` labels from MNIST's pair of arrays or CIFAR-10's batches of records."""
    if arrays[0].ndim == 3:
        images, labels = arrays
        return images[:, None], labels.astype(np.int64)
    images = np.concatenate([records[:, 1:] for records in arrays]).reshape(-1, 3, 32, 32)
    return images, np.concatenate([records[:, 0] for records in arrays]).astype(np.int64)
