"""File formats, data sets by name, augmentation, and the loader that makes batches of them."""

from .balance import class_weights
from .catalog import DATASETS, DatasetInfo, default_augmentation
from .dataset import Dataset
from .errors import DataError
from .folder import data_folder
from .formats.idx import read_idx, write_idx
from .load import load_dataset
from .loader import Loader
from .npz import read_npz
from .sources import load_parts
from .spec import DataSpec
from .transforms import (
    AlternatingFlip,
    ColorJitter,
    Compose,
    Cutout,
    RandomAffine,
    RandomHorizontalFlip,
    RandomShift,
    Transform,
    make_transform,
)

__all__ = [
    "DATASETS",
    "AlternatingFlip",
    "ColorJitter",
    "Compose",
    "Cutout",
    "DataError",
    "DataSpec",
    "Dataset",
    "DatasetInfo",
    "Loader",
    "RandomAffine",
    "RandomHorizontalFlip",
    "RandomShift",
    "Transform",
    "class_weights",
    "data_folder",
    "default_augmentation",
    "load_dataset",
    "load_parts",
    "make_transform",
    "read_idx",
    "read_npz",
    "write_idx",
]
