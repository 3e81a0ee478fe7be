"""From what the user calls their data to a training and a test part."""

from __future__ import annotations

import os
from pathlib import Path

from .catalog import DATASETS
from .dataset import Dataset
from .errors import DataError
from .load import load_dataset
from .npz import read_npz
from .spec import DataSpec


def load_parts(
    name_or_path: str | os.PathLike[str],
    data_dir: str | os.PathLike[str] | None = None,
    *,
    size: int | None = None,
    skip_bad: bool = False,
    progress: bool = False,
    like: Dataset | DataSpec | None = None,
) -> tuple[Dataset, Dataset]:
    """Read the training and the test part of a data set.

    Args:
        name_or_path: a key of `DATASETS`, a folder of pictures (see `Dataset.from_folder`), or a `.npz` file (see
            `read_npz`). A folder named as a data set is meant by `./mnist`.
        data_dir: the folder of the data sets, and of the decoded pictures of folders; see `data_folder`.
        size: see `Dataset.from_folder`; for folders only.
        skip_bad: see `Dataset.from_folder`.
        progress: see `Dataset.from_folder`.
        like: the training set of a network that is to classify the images, or its spec: classes and shape are checked
            by it. Data sets known by name do not use it.

    Raises:
        DataError: if there is nothing of that name, or it cannot be read.
        ValueError: if `size` is given for something other than a folder.
    """
    name = resolve_data(os.fspath(name_or_path))
    folder = name not in DATASETS and Path(name).is_dir()
    if size is not None and not folder:
        raise ValueError(f"size is for folders of pictures only, got size={size} for {name}")
    if folder:
        return Dataset.from_folder(name, size, like=like, skip_bad=skip_bad, cache_dir=data_dir, progress=progress)
    if name in DATASETS:
        return load_dataset(name, "train", data_dir), load_dataset(name, "test", data_dir)
    return read_npz(name, like=like)


def load_for_evaluation(
    name_or_path: str | os.PathLike[str],
    data_dir: str | os.PathLike[str] | None = None,
    *,
    like: DataSpec,
    whole: bool = False,
    skip_bad: bool = False,
    progress: bool = False,
) -> tuple[Dataset, ...]:
    """Read the parts of a data set that a trained network is measured on.

    Args:
        name_or_path, data_dir, skip_bad, progress: see `load_parts`.
        like: the spec of the network's training images.
        whole: both parts, rather than the test part alone, which is all that is read of a data set known by name.

    Raises:
        DataError: if there is nothing of that name, it cannot be read, or it has another shape or other classes.
    """
    name = resolve_data(os.fspath(name_or_path))
    parts: tuple[Dataset, ...]
    if name in DATASETS and not whole:
        parts = (load_dataset(name, "test", data_dir),)
    else:
        train, test = load_parts(name, data_dir, like=like, skip_bad=skip_bad, progress=progress)
        parts = (train, test) if whole else (test,)
    for part in parts:
        if (part.shape, part.num_classes) != (like.shape, len(like.classes)):
            found = f"images (C, H, W) = {part.shape} of {part.num_classes} classes"
            raise DataError(f"{part} has {found}, this network takes {like.shape} of {len(like.classes)}")
    return parts


def resolve_data(name: str) -> str:
    """Return the key of `DATASETS`, or the absolute path of the folder or `.npz` file, that a user's text stands for.

    Raises:
        DataError: if there is nothing of that name.
    """
    if name in DATASETS:
        return name
    path = os.path.abspath(name)  # noqa: PTH100  (resolving links would change what the user wrote)
    if name and (os.path.isdir(path) or name.lower().endswith(".npz")):  # noqa: PTH112  (false for impossible names)
        return path
    known = f"one of {', '.join(DATASETS)}; a folder with a subfolder of pictures for each class; or a .npz file"
    raise DataError(f"unknown data set {name!r:.200}: expected {known}")
