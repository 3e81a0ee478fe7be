"""Where the public data sets are published, and how absent files are fetched from there.

Nothing is trusted but the SHA-256 sums below, taken over the *decompressed* content: mirrors compress differently.
"""

import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import DataError

TIMEOUT = 30.0  # seconds without an answer or a byte, after which the next mirror is tried


@dataclass(frozen=True)
class Source:
    """The published files of one data set.

    Attributes:
        mirrors: address prefixes, tried in this order.
        sha256: the sum of each file's decompressed content, by file name.
        archive: the name of the one `.tar.gz` that holds all files, or None if each has an address of its own.
    """

    mirrors: tuple[str, ...]
    sha256: Mapping[str, str]
    archive: str | None = None


SOURCES: dict[str, Source] = {
    "mnist": Source(
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        sha256={
            "train-images-idx3-ubyte.gz": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train-labels-idx1-ubyte.gz": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "t10k-images-idx3-ubyte.gz": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "t10k-labels-idx1-ubyte.gz": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
    ),
    "fashion-mnist": Source(
        mirrors=(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        ),
        sha256={
            "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        },
    ),
    "cifar10": Source(
        mirrors=("https://www.cs.toronto.edu/~kriz/",),
        sha256={
            "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
            "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
            "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
            "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
            "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
            "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
        },
        archive="cifar-10-binary.tar.gz",
    ),
}


def download(source: Source, folder: Path, names: Sequence[str], check: Callable[[Path, str], object]) -> None:
    """Fetch the named files of a source into the folder, which is made if it is absent.

    A file appears in the folder only once it is complete and checked; an interrupted download leaves nothing behind.

    Args:
        source: where the files are published.
        folder: where they go.
        names: the files to fetch, out of `source.sha256`.
        check: called with a fetched file's path and its expected sum; raises DataError if the content is another.

    Raises:
        DataError: if no mirror delivers, with each address, its fault, and the folder for files put there by hand;
            or if the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Inside the folder and so on its disk: a file moves out of it in one step.
        scratch = tempfile.TemporaryDirectory(prefix=".download-", dir=folder)
    except OSError as error:
        raise DataError(f"{folder}: lacks {', '.join(names)}, and cannot be written ({error.strerror})") from error
    deliveries = [(source.archive, names)] if source.archive else [(name, [name]) for name in names]
    with scratch as part:
        for published, members in deliveries:
            faults = []
            for mirror in source.mirrors:
                try:
                    _fetch(mirror + published, Path(part, published))
                    if source.archive:
                        _unpack(Path(part, published), members)
                    for name in members:
                        check(Path(part, name), source.sha256[name])
                        Path(part, name).replace(folder / name)
                    break
                except (DataError, OSError) as error:
                    faults.append(f"{mirror}{published}: {str(error).removeprefix(part + os.sep)}")
            else:
                by_hand = f"put {', '.join(members)} into {folder} by hand"
                raise DataError(f"cannot download {'; '.join(faults)}. Without a connection, {by_hand}")


def _fetch(address: str, path: Path) -> None:
    # Imported here: most runs find their data on the disk.
    from http.client import HTTPException
    from urllib.request import urlopen

    from tqdm import tqdm

    try:
        with urlopen(address, timeout=TIMEOUT) as answer, path.open("wb") as file:
            size = getattr(answer, "length", None)  # unknown to other protocols than HTTP
            with tqdm.wrapattr(file, "write", total=size, desc=path.name) as counted:
                shutil.copyfileobj(answer, counted)
    except HTTPException as error:
        raise DataError(f"the connection broke ({error!r})") from error


def _unpack(archive: Path, names: Sequence[str]) -> None:
    """Extract the named plain files beside the archive, wherever in it they lie: no path of its own is followed."""
    import tarfile

    missing = set(names)
    try:
        with tarfile.open(archive, "r:gz") as members:
            for member in members:
                name = Path(member.name).name
                content = members.extractfile(member) if name in missing and member.isfile() else None
                if content is not None:
                    with content, (archive.parent / name).open("wb") as file:
                        shutil.copyfileobj(content, file)
                    missing.remove(name)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise DataError(f"truncated or corrupt archive ({error})") from error
    if missing:
        raise DataError(f"the archive lacks {', '.join(sorted(missing))}")
