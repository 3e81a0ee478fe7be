"""From what the user calls their data to a training and a test part."""

from __future__ import annotations

import os

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
            by it. Data sets known by name have their own classes, and do not use it.

    Raises:
        DataError: if there is nothing of that name, or it cannot be read.
        ValueError: if `size` is given for something other than a folder.
    """
    name = os.fspath(name_or_path)
    folder = name not in DATASETS and os.path.isdir(name)  # noqa: PTH112  (false for impossible names)
    if size is not None and not folder:
        raise ValueError(f"size is for folders of pictures only, got size={size} for {name}")
    if folder:
        return Dataset.from_folder(name, size, like=like, skip_bad=skip_bad, cache_dir=data_dir, progress=progress)
    if name in DATASETS:
        return load_dataset(name, "train", data_dir), load_dataset(name, "test", data_dir)
    if name.lower().endswith(".npz"):
        return read_npz(name, like=like)
    known = f"one of {', '.join(DATASETS)}; a folder with a subfolder of pictures for each class; or a .npz file"
    raise DataError(f"unknown data {name!r}: expected {known}")
