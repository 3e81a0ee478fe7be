"""File formats, data sets by name, augmentation, and the loader that makes batches of them."""

from .catalog import DATASETS, DatasetInfo
from .dataset import Dataset
from .errors import DataError
from .folder import data_folder
from .formats.idx import read_idx, write_idx
from .load import load_dataset
from .loader import Loader
from .npz import read_npz
from .sources import load_parts
from .spec import DataSpec
from .transforms import Compose, RandomAffine, RandomHorizontalFlip, RandomShift, Transform

__all__ = [
    "DATASETS",
    "Compose",
    "DataError",
    "DataSpec",
    "Dataset",
    "DatasetInfo",
    "Loader",
    "RandomAffine",
    "RandomHorizontalFlip",
    "RandomShift",
    "Transform",
    "data_folder",
    "load_dataset",
    "load_parts",
    "read_idx",
    "read_npz",
    "write_idx",
]
