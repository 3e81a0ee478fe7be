"""The data sets known by name: all that is known of each before it is read. A new one is an entry in `DATASETS`."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from .formats.cifar import CIFAR10, RECORD
from .formats.format import Format, Published
from .formats.idx import IDX

Split = Literal["train", "test"]
Files = Mapping[Split, Mapping[str, Published]]


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a data set before it is read.

    Attributes:
        folder: the name of its folder, under the data folder; an embedded one's lies beside this file.
        format: how its files are read.
        files: the names of each split's files, and what is known of each.
        classes: the names of its classes, in the order of the labels.
        mean: the mean of each channel over the training split, pixels scaled to [0, 1].
        std: the standard deviation of each channel, likewise.
        shape: `(C, H, W)` of an image.
        drawing: whether the images are light figures, centred on a dark background.
        augment: the augmentation that suits it, as names for `make_transform`.
        embedded: whether it comes with the package.
        mirrors: prefixes of the addresses it is published at, tried in this order: those by https first.
        archive: the name of the one `.tar.gz` that holds all files, or None if each has an address of its own.
    """

    folder: str
    format: Format
    files: Files
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    shape: tuple[int, int, int]
    drawing: bool
    augment: str = "none"
    embedded: bool = False
    mirrors: tuple[str, ...] = ()
    archive: str | None = None

    @property
    def size(self) -> int:
        """The bytes of all its files, decompressed."""
        return sum(published.size for files in self.files.values() for published in files.values())


def dataset_info(name: str) -> DatasetInfo:
    """Return what is known of a data set.

    Raises:
        ValueError: if the name is unknown.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown data set {name!r}: expected one of {', '.join(DATASETS)}")
    return DATASETS[name]


def default_augmentation(source: str | os.PathLike[str], shape: tuple[int, int, int]) -> str:
    """Return the augmentation that suits a data set, as names for `make_transform`.

    A data set known by name has its own. Pictures in colour from a folder are mirrored and shifted, as photographs may
    be. Grey ones may be characters, which a mirror makes others, and arrays in an `.npz` file may be anything: these
    are not changed.

    Args:
        source: the name of a data set, or the path of a folder or of an `.npz` file.
        shape: `(C, H, W)` of an image.
    """
    name = os.fspath(source)
    if name in DATASETS:
        return DATASETS[name].augment
    return "flip,crop" if shape[0] == 3 and not name.lower().endswith(".npz") else "none"


def _mnist_files(train: int, *sums: str) -> Files:
    """Return MNIST's file names with the number of training images, and the sums of the four files."""
    train_images, train_labels, test_images, test_labels = sums

    def files(prefix: str, count: int, images: str, labels: str) -> dict[str, Published]:
        return {
            f"{prefix}-images-idx3-ubyte.gz": Published(images, 16 + count * 28 * 28),
            f"{prefix}-labels-idx1-ubyte.gz": Published(labels, 8 + count),
        }

    return {
        "train": files("train", train, train_images, train_labels),
        "test": files("t10k", 10_000, test_images, test_labels),
    }


def _cifar_files(**sums: str) -> dict[str, Published]:
    """Return files of 10,000 records by name without the ending."""
    return {f"{name}.bin": Published(sha256, 10_000 * RECORD) for name, sha256 in sums.items()}


_DIGITS = tuple("0123456789")
_MNIST_TEST_SUMS = (
    "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
)

DATASETS: dict[str, DatasetInfo] = {
    "mnist-mini": DatasetInfo(
        folder="mnist_mini",
        format=IDX,
        files=_mnist_files(
            10_000,
            "2889698e6bc3614913e76901316712919d1998fc2b44512451bfe65bc1e668b1",
            "651e38e2ac0632f5113ec18f1df4977117f953197819034009971a6675a0df78",
            *_MNIST_TEST_SUMS,
        ),
        classes=_DIGITS,
        mean=(0.13066,),  # a sample of MNIST, normalised like the whole
        std=(0.30811,),
        shape=(1, 28, 28),
        drawing=True,
        augment="affine",
        embedded=True,
    ),
    "mnist": DatasetInfo(
        folder="mnist",
        format=IDX,
        files=_mnist_files(
            60_000,
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            *_MNIST_TEST_SUMS,
        ),
        classes=_DIGITS,
        mean=(0.13066,),
        std=(0.30811,),
        shape=(1, 28, 28),
        drawing=True,
        augment="affine",
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
    ),
    "fashion-mnist": DatasetInfo(
        folder="fashion-mnist",
        format=IDX,
        files=_mnist_files(
            60_000,
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
        classes=(
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
        mean=(0.28604,),
        std=(0.35302,),
        shape=(1, 28, 28),
        drawing=True,
        augment="flip",
        mirrors=(
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        ),
    ),
    "cifar10": DatasetInfo(
        folder="cifar-10-batches-bin",
        format=CIFAR10,
        files={
            "train": _cifar_files(
                data_batch_1="cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
                data_batch_2="a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
                data_batch_3="bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
                data_batch_4="014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
                data_batch_5="755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
            ),
            "test": _cifar_files(test_batch="8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b"),
        },
        classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        mean=(0.49140, 0.48216, 0.44653),
        std=(0.24703, 0.24349, 0.26159),
        shape=(3, 32, 32),
        drawing=False,
        augment="flip,crop",
        mirrors=("https://www.cs.toronto.edu/~kriz/",),
        archive="cifar-10-binary.tar.gz",
    ),
}
