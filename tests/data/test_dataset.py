"""Data sets: the embedded one, small make-believe copies of the others in a folder, and what is refused."""

import gzip
import hashlib
import json
import os
import sys
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from xpcnn.data import (
    DATASETS,
    DataError,
    Dataset,
    DatasetInfo,
    DataSpec,
    Loader,
    data_folder,
    load_dataset,
    statistics,
    write_idx,
)
from xpcnn.data.formats.format import Format, Published
from xpcnn.data.rows import Rows


def a_dataset(**changes):
    images = np.arange(5 * 3 * 2 * 2, dtype=np.uint8).reshape(5, 3, 2, 2)
    fields = {"images": images, "labels": np.array([0, 1, 2, 0, 1]), "classes": ("a", "b", "c")}
    return Dataset(**(fields | {"name": "toy"} | changes))


@pytest.fixture
def publish(monkeypatch):
    """Make the files of a folder the published ones of a data set."""

    def published(name, folder):
        def known(file):
            content = (folder / file).read_bytes()
            content = gzip.decompress(content) if file.endswith(".gz") else content
            return Published(hashlib.sha256(content).hexdigest(), len(content))

        info = DATASETS[name]
        sums = {split: {file: known(file) for file in names} for split, names in info.files.items()}
        monkeypatch.setitem(DATASETS, name, replace(info, files=sums, mirrors=("file:///nowhere/",)))

    return published


@pytest.fixture
def small_mnist(tmp_path, publish):
    """A folder with a data set of two training images and three test images in MNIST's files."""
    folder = tmp_path / "mnist"
    folder.mkdir()
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), np.uint8)
    labels = np.array([3, 9, 0, 1, 9], np.uint8)
    for prefix, rows in (("train", slice(0, 2)), ("t10k", slice(2, 5))):
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", images[rows])
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", labels[rows])
    publish("mnist", folder)
    return tmp_path, images, labels


def test_the_embedded_data_set_is_the_documented_one():
    readme = (files("xpcnn.data") / "mnist_mini" / "README.md").read_text()
    for split, sums in DATASETS["mnist-mini"].files.items():
        for name, published in sums.items():
            content = gzip.decompress((files("xpcnn.data") / "mnist_mini" / name).read_bytes())
            assert published == (hashlib.sha256(content).hexdigest(), len(content))
            assert f"{published.sha256}  {name.removesuffix('.gz')}\n" in readme
            assert (published == DATASETS["mnist"].files[split][name]) == (split == "test")


def test_the_embedded_data_set_is_read(monkeypatch):
    monkeypatch.setenv("XPCNN_DATA", "/nowhere")
    train, test = load_dataset("mnist-mini"), load_dataset("mnist-mini", "test", download=False)
    assert (train.images.shape, test.images.shape) == ((10_000, 1, 28, 28),) * 2
    # The first labels, and the count of each digit in the test set, as MNIST is known for.
    assert train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert np.bincount(test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert (str(train), str(test), train.classes) == ("mnist-mini (train)", "mnist-mini (test)", tuple("0123456789"))
    assert (train.mean, train.std) == (test.mean, test.std) == (DATASETS["mnist"].mean, DATASETS["mnist"].std)
    pixels = train.images / 255
    np.testing.assert_allclose((pixels.mean(), pixels.std()), (*train.mean, *train.std), rtol=0.01)


def test_mnist_is_read_from_its_folder(small_mnist, monkeypatch):
    folder, images, labels = small_mnist
    monkeypatch.setenv("XPCNN_DATA", str(folder))
    for split, rows in (("train", slice(0, 2)), ("test", slice(2, 5))):
        dataset = load_dataset("mnist", split)
        assert (dataset.name, dataset.part, dataset.labels.dtype) == ("mnist", split, np.int64)
        np.testing.assert_array_equal(dataset.images[:, 0], images[rows])
        np.testing.assert_array_equal(dataset.labels, labels[rows])


def test_the_sum_is_that_of_the_decompressed_content(small_mnist):
    folder, images, _ = small_mnist
    path = folder / "mnist" / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.decompress(path.read_bytes()))
    np.testing.assert_array_equal(load_dataset("mnist", "train", folder).images[:, 0], images[:2])


@pytest.mark.parametrize(
    "damage", [lambda images: images[:1], lambda images: np.repeat(images, 2, 0), lambda images: images ^ 1]
)
def test_another_file_than_the_published_one_is_refused(small_mnist, damage):
    folder, images, _ = small_mnist
    path = folder / "mnist" / "t10k-images-idx3-ubyte.gz"
    write_idx(path, damage(images[2:]))
    with pytest.raises(
        DataError, match=r"t10k-images-idx3-ubyte.gz: (not the published file|shape) .*; remove the file to"
    ):
        load_dataset("mnist", "test", folder)
    path.write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"not an IDX file .*; remove the file to"):
        load_dataset("mnist", "test", folder)


def test_cifar10_is_read_file_after_file_plane_after_plane(tmp_path, publish):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    records = np.random.default_rng(0).integers(0, 256, (12, 3073), np.uint8)
    records[:, 0] %= 10
    for i in range(5):
        records[2 * i : 2 * i + 2].tofile(folder / f"data_batch_{i + 1}.bin")
    records[10:].tofile(folder / "test_batch.bin")
    publish("cifar10", folder)
    train, test = (load_dataset("cifar10", split, tmp_path) for split in ("train", "test"))
    np.testing.assert_array_equal(np.concatenate([train.labels, test.labels]), records[:, 0])
    assert train.images.shape == (10, 3, 32, 32)
    assert train.images[7, 2, 5, 9] == records[7, 1 + 2 * 1024 + 5 * 32 + 9]
    np.testing.assert_array_equal(test.images.reshape(2, -1), records[10:, 1:])
    (folder / "test_batch.bin").write_bytes(bytes(3073))
    with pytest.raises(DataError, match=r"test_batch.bin: not the published file"):
        load_dataset("cifar10", "test", tmp_path)


def test_without_download_absent_files_are_named_and_nothing_is_made(tmp_path):
    with pytest.raises(DataError, match=r"fashion-mnist: t10k-images.*, t10k-labels.* not found in .*fashion-mnist,"):
        load_dataset("fashion-mnist", "test", tmp_path, download=False)
    assert not list(tmp_path.iterdir())


def test_unknown_names_get_the_known_ones():
    with pytest.raises(ValueError, match="'imagenet': expected one of mnist-mini, mnist, fashion-mnist, cifar10"):
        load_dataset("imagenet")
    with pytest.raises(ValueError, match="'valid': expected one of train, test"):
        load_dataset("mnist-mini", "valid")


def test_the_catalogue_is_complete():
    for info in DATASETS.values():
        assert (len(info.classes), len(info.mean), len(info.std)) == (10, info.shape[0], info.shape[0])
        assert [*info.files] == ["train", "test"]
        sums = [published.sha256 for split in info.files.values() for published in split.values()]
        assert len({*sums}) == len(sums)
        assert all(len(bytes.fromhex(sha256)) == 32 for sha256 in sums)
        assert info.embedded == (not info.mirrors)
        assert [*info.mirrors] == sorted(info.mirrors, key=lambda mirror: not mirror.startswith("https://"))


def test_a_data_set_in_a_format_of_its_own_is_one_entry(tmp_path, monkeypatch):
    content = bytes([1, 10, 20, 0, 30, 40])  # for each image its label and two pixels

    def join(arrays):
        (records,) = arrays
        return records[:, 1:].reshape(-1, 1, 1, 2), records[:, 0].astype(np.int64)

    pairs = Format(lambda path, limit: np.fromfile(path, np.uint8).reshape(-1, 3), lambda array: b"", join)
    (tmp_path / "pairs").mkdir()
    (tmp_path / "pairs" / "all").write_bytes(content)
    files = {split: {"all": Published(hashlib.sha256(content).hexdigest(), 6)} for split in ("train", "test")}
    entry = DatasetInfo("pairs", pairs, files, ("a", "b"), (0.1,), (0.2,), (1, 1, 2), drawing=False)
    monkeypatch.setitem(DATASETS, "pairs", entry)
    dataset = load_dataset("pairs", "train", tmp_path)
    assert (dataset.labels.tolist(), dataset.classes) == ([1, 0], ("a", "b"))
    assert (dataset.mean, dataset.std) == ((0.1,), (0.2,))
    assert dataset.images.tolist() == [[[[10, 20]]], [[[30, 40]]]]


def test_the_folder_is_the_argument_then_the_variable_then_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XPCNN_DATA", "~/variable")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data_folder("given") == Path("given")
    assert data_folder() == tmp_path / "variable"
    monkeypatch.setenv("XPCNN_DATA", "")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert data_folder() == tmp_path / ".cache" / "xpcnn"
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert data_folder() == Path("/cache/xpcnn")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert data_folder() == tmp_path / "Library" / "Caches" / "xpcnn"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", "/local")
    assert data_folder() == Path("/local/xpcnn")


@pytest.mark.parametrize("folder", ["~nosuchuser/x", "~nosuchuser"])
def test_a_home_that_nobody_has_is_one_line(folder, monkeypatch):
    with pytest.raises(DataError, match=f"no folder for data sets in {folder}: "):
        load_dataset("mnist", "test", folder)
    monkeypatch.setenv("XPCNN_DATA", folder)
    with pytest.raises(DataError, match="no folder for data sets"):
        data_folder()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no FIFOs in its file system")
def test_what_is_no_file_is_neither_waited_for_nor_replaced(small_mnist):
    path = small_mnist[0] / "mnist" / "t10k-images-idx3-ubyte.gz"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DataError, match=r"it is a FIFO, not a file\); remove the file"):
        load_dataset("mnist", "test", small_mnist[0])
    path.unlink()
    path.symlink_to("nowhere")
    with pytest.raises(DataError, match=r"no such file; remove the file"):
        load_dataset("mnist", "test", small_mnist[0])


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"images": np.zeros((5, 2), np.uint8)}, r"expected images \(N, C, H, W\) or .*, got \(5, 2\) uint8"),
        ({"images": np.zeros((5, 1, 2, 2), np.int64)}, r"uint8 or float, got \(5, 1, 2, 2\) int64"),
        ({"images": np.zeros((5, 1, 0, 2), np.uint8)}, r"got \(5, 1, 0, 2\) uint8"),
        ({"images": np.zeros((5, 8, 8, 3), np.uint8)}, r"\(N, H, W, C\): use images.transpose\(0, 3, 1, 2\)"),
        ({"images": np.where(np.arange(5) == 3, np.nan, 1.0)[:, None, None]}, "image 3 has pixels that are nan"),
        ({"labels": np.zeros(4, int)}, r"expected labels \(5,\), got \(4,\)"),
        ({"labels": np.zeros((5, 1), int)}, r"got \(5, 1\)"),
        ({"labels": np.zeros(5)}, "expected labels that are integers or strings, got float64"),
        ({"labels": np.array([0, 1, 2, 3, 0])}, "the label 3 of image 3 is none of the classes 0, 1, 2"),
        ({"labels": np.array([0, 1, 2, -1, 0])}, "the label -1 of image 3"),
        ({"labels": ["a", "b", "c", "d", "a"]}, "the label d of image 3 is none of the classes a, b, c"),
        ({"classes": ("a", "b", "a")}, "expected names of classes, each once"),
        ({"classes": "abc"}, "expected names of classes"),
        ({"mean": (0.5,)}, r"expected 3 values of mean, got \(0.5,\)"),
        ({"mean": (0.5, 0.5, np.nan)}, r"expected 3 values of mean, got"),
        ({"std": (1.0, 1.0)}, r"expected 3 values of std, got"),
        ({"std": (1.0, 0.0, 1.0)}, r"expected positive values of std, got \(1.0, 0.0, 1.0\)"),
        ({"like": a_dataset()}, "give classes, mean and std, or like, not both"),
    ],
)
def test_a_data_set_refuses_what_does_not_fit(changes, fault):
    with pytest.raises(DataError, match=rf"toy: .*{fault}"):
        a_dataset(**changes)


@pytest.mark.parametrize(
    ("labels", "classes", "indices"),
    [
        (np.array([10, 2, 10, 3], np.uint8), ("2", "3", "10"), [2, 0, 2, 1]),
        ([-1, 1, 1, -1], ("-1", "1"), [0, 1, 1, 0]),
        ([True, False, True, True], ("0", "1"), [1, 0, 1, 1]),
        (["dog", "cat", "dog", "emu"], ("cat", "dog", "emu"), [1, 0, 1, 2]),
        (np.array(["dog", "cat", "dog", "emu"], object), ("cat", "dog", "emu"), [1, 0, 1, 2]),
    ],
)
def test_classes_are_the_distinct_labels_and_a_test_set_has_those_of_its_training_set(labels, classes, indices):
    images = np.arange(4 * 6, dtype=np.uint8).reshape(4, 2, 3)
    train = Dataset(images, labels)
    assert (train.shape, train.classes, train.num_classes) == ((1, 2, 3), classes, len(classes))
    assert (train.labels.tolist(), train.labels.dtype) == (indices, np.int64)
    for like in (train, DataSpec.from_dict(json.loads(json.dumps(train.spec.to_dict())))):
        test = Dataset(images[1:2] + 200, labels[:1], like=like)
        assert (test.labels.tolist(), test.spec) == (indices[:1], train.spec)
    with pytest.raises(DataError, match=r"expected images \(C, H, W\) = \(1, 2, 3\) of uint8, as in training, got"):
        Dataset(images[:1] / 255, labels[:1], like=train)
    other = ["x"] if train.classes[-1] == "emu" else [77]
    with pytest.raises(DataError, match="is none of the classes"):
        Dataset(images[:1], other, like=train)


def test_strings_expect_strings():
    train = Dataset(np.zeros((2, 2, 2), np.uint8), ["cat", "dog"])
    with pytest.raises(DataError, match="expected labels that are strings, as in training, got int64"):
        Dataset(np.zeros((2, 2, 2), np.uint8), [0, 1], like=train)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [0.1, 1e6 + 0.3, -7.7])
def test_rounding_is_no_deviation(dtype, value):
    """The mean of 101 equal numbers may differ from them in the last bit."""
    assert Dataset(np.full((101, 1, 3, 3), value, dtype), np.arange(101) % 2).std == (1.0,)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_mean_and_std_are_those_of_the_training_images(dtype, monkeypatch):
    monkeypatch.setattr(statistics, "_BLOCK", 1000)  # several blocks
    images = np.random.default_rng(0).integers(0, 256, (70, 3, 4, 5)).astype(dtype)
    images[:, 2] = 7
    white = 255 if dtype == np.uint8 else 1
    dataset = Dataset(images, np.arange(70) % 2)
    np.testing.assert_allclose(dataset.mean, images.mean((0, 2, 3), np.float64) / white, rtol=1e-12)
    np.testing.assert_allclose(dataset.std[:2], images.std((0, 2, 3), np.float64)[:2] / white, rtol=1e-12)
    assert dataset.std[2] == 1
    train, test = dataset.split(0.5)
    assert (train.mean, train.std) == (test.mean, test.std) != (dataset.mean, dataset.std)
    np.testing.assert_allclose(train.mean, train.images.mean((0, 2, 3), np.float64) / white, rtol=1e-12)
    # What was given, or belongs to a larger training set, stays.
    for known in (Dataset(images, np.arange(70) % 2, mean=(1, 2, 3), std=(1, 1, 1)), dataset.subset(slice(40))):
        assert [part.mean for part in known.split(0.5)] == [known.mean] * 2


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.8, 0.97])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_split_is_exact_stratified_and_reproducible(fraction, seed):
    labels = np.random.default_rng(0).choice(5, 400, p=[0.5, 0.3, 0.1, 0.05, 0.05])
    images = np.arange(400, dtype=np.float32).reshape(400, 1, 1)
    dataset = Dataset(images, labels)
    train, test = dataset.split(fraction, seed)
    assert (len(train), len(test)) == (round(fraction * 400), 400 - round(fraction * 400))
    together = np.concatenate([train.images, test.images]).reshape(-1)
    assert sorted(together.tolist()) == list(range(400))
    for part in (train, test):
        assert (part.labels == labels[part.images.reshape(-1).astype(int)]).all()
        assert (np.diff(part.images.reshape(-1)) > 0).all()
    counts = np.bincount(labels)
    shares = np.bincount(train.labels, minlength=5)
    assert (np.abs(shares - fraction * counts) <= 1).all()
    assert (shares >= 1).all()
    assert (shares < counts).all()
    again, other = (dataset.split(fraction, chosen)[0].images.tobytes() for chosen in (seed, seed + 1))
    assert again == train.images.tobytes() != other


def test_a_split_needs_two_samples_of_each_class():
    dataset = Dataset(np.zeros((4, 2, 2), np.uint8), ["a", "a", "b", "b"])
    assert [part.labels.tolist() for part in dataset.split(0.9)] == [[0, 1], [0, 1]]
    with pytest.raises(DataError, match="needs two samples of each class, got one of b"):
        dataset.subset([0, 1, 2]).split()
    with pytest.raises(DataError, match="got none"):
        dataset.subset([]).split()
    for wrong in (0, 1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="between 0 and 1"):
            dataset.split(wrong)


def test_a_memory_map_is_not_read_as_a_whole(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (50, 3, 4, 4), np.uint8)
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    labels = np.arange(50) % 5
    whole, lazy = Dataset(images, labels).split(0.7), Dataset(mapped, labels).split(0.7)
    for expected, part in zip(whole, lazy, strict=True):
        chosen = part.subset(np.arange(len(part))[::-2])
        for found, same in ((part, expected), (chosen, expected.subset(np.arange(len(part))[::-2]))):
            assert isinstance(found.images, Rows)
            assert found.spec == same.spec
            assert (found.images.shape, found.images.nbytes) == (same.images.shape, same.images.nbytes)
            np.testing.assert_array_equal(found.images, same.images)
            for batch, other in zip(Loader(found, 4, shuffle=True), Loader(same, 4, shuffle=True), strict=True):
                np.testing.assert_array_equal(batch[0], other[0])
                np.testing.assert_array_equal(batch[1], other[1])


@pytest.mark.parametrize(
    ("indices", "rows"),
    [
        (slice(1, None, 2), [1, 3]),
        ([4, 0, 0], [4, 0, 0]),
        ((2, 3), [2, 3]),
        (range(2), [0, 1]),
        ([], []),
        (np.array([False, True, False, False, True]), [1, 4]),
    ],
)
def test_a_subset_holds_the_chosen_samples(indices, rows):
    dataset = a_dataset(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    part = dataset.subset(indices)
    assert (part.mean, part.std) == (dataset.mean, dataset.std)
    assert len(part) == len(rows)
    assert part.labels.tolist() == [dataset.labels[row] for row in rows]
    np.testing.assert_array_equal(part.images, dataset.images.take(rows, axis=0))
    assert np.shares_memory(part.images, dataset.images) == isinstance(indices, slice)
