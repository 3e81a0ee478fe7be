"""Reading a data set known by name."""

import os
from importlib.resources import as_file, files
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from .catalog import DatasetInfo, Split, dataset_info
from .dataset import Dataset
from .download import download_files
from .errors import DataError
from .folder import data_folder


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
    return Dataset(
        images,
        labels,
        classes=info.classes,
        mean=info.mean,
        std=info.std,
        drawing=info.drawing,
        name=name,
        part=split,
    )


def _read_embedded(info: DatasetInfo, split: Split) -> list[NDArray[np.uint8]]:
    arrays = []
    for file, published in info.files[split].items():
        with as_file(files("xpcnn.data") / info.folder / file) as path:  # a real path even where the package is zipped
            arrays.append(info.format.read_published(path, published))
    return arrays
