"""Batches made on the device are those of the host, bit for bit."""

import threading

import numpy as np
import pytest
from strict_xp import DEVICE, forbid_host_reads

from xpcnn.backend import CPU, device_of, to_host
from xpcnn.data import Compose, Dataset, Loader, RandomShift, load_dataset, make_transform
from xpcnn.nn import Flatten, Linear, Sequential
from xpcnn.optim import SGD
from xpcnn.training import Trainer, evaluate
from xpcnn.training.config import RunConfig


def colours(rng, N=23):
    images = rng.integers(0, 256, (N, 3, 5, 4), np.uint8)
    return Dataset(images, rng.integers(0, 7, N), classes=tuple("abcdefg"))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("options", [{}, {"shuffle": True, "seed": 3}, {"shuffle": True, "drop_last": True}], ids=str)
def test_the_same_batches_as_on_the_host(options, dtype, device, rng):
    dataset = colours(rng)
    options = options | {"mean": (0.1, 0.5, 0.9), "std": (0.3, 0.7, 1.1), "dtype": dtype}
    ours, theirs = Loader(dataset, 6, device=device, **options), Loader(dataset, 6, **options)
    assert len(ours) == len(theirs)
    for epoch, start in ((0, 0), (2, 0), (2, 2), (1, len(theirs))):
        batches = list(ours.epoch(epoch, start))
        expected = list(theirs.epoch(epoch, start))
        assert len(batches) == len(expected)
        for (images, labels), (pixels, classes) in zip(batches, expected, strict=True):
            assert device_of(images) is device_of(labels) is device
            assert images.dtype == dtype
            assert images.transpose(1, 2, 3, 0).flags.c_contiguous
            np.testing.assert_array_equal(to_host(images), pixels)
            np.testing.assert_array_equal(to_host(labels), classes)
    assert [rows.tolist() for rows in ours.indices(2)] == [rows.tolist() for rows in theirs.indices(2)]


def test_each_iteration_is_the_next_epoch_there_too(device, rng):
    loader = Loader(colours(rng), 23, shuffle=True, device=device)
    orders = [to_host(labels).tolist() for _ in range(2) for _, labels in loader]
    assert orders == [to_host(labels).tolist() for epoch in range(2) for _, labels in loader.epoch(epoch)]
    assert orders[0] != orders[1]


VARY = make_transform("flip,crop,affine,colour,cutout", (3, 5, 4))


@pytest.mark.parametrize("transform", [None, VARY])
def test_an_epoch_reads_nothing_back(rng, transform):
    loader = Loader(colours(rng), 5, device=DEVICE, shuffle=True, transform=transform)
    with forbid_host_reads():
        assert sum(len(labels) for _, labels in loader) == 23


def same_batches(ours, theirs, where):
    ours, theirs = list(ours), list(theirs)
    assert len(ours) == len(theirs)
    for (images, labels), (pixels, classes) in zip(ours, theirs, strict=True):
        assert device_of(images) is device_of(labels) is where
        np.testing.assert_array_equal(to_host(images), pixels)
        np.testing.assert_array_equal(to_host(labels), classes)


def test_images_are_changed_on_the_device(rng, device):
    dataset = colours(rng)
    ours, theirs = (Loader(dataset, 5, transform=VARY, device=where) for where in (device, CPU))
    assert ours.device is device
    same_batches(ours.epoch(1), theirs.epoch(1), device)


def test_a_transform_written_with_numpy_is_left_to_the_host(rng, device):
    def darker(images, generator):
        assert isinstance(images, np.ndarray)
        return images // generator.integers(1, 5, (len(images), 1, 1, 1), np.uint8)

    dataset = colours(rng)
    for transform in (darker, Compose([RandomShift(1), darker])):
        ours, theirs = (Loader(dataset, 5, transform=transform, device=where) for where in (device, CPU))
        assert ours.device is CPU
        same_batches(ours.epoch(1), theirs.epoch(1), CPU)


@pytest.mark.parametrize("device", ["strict", "cuda"], indirect=True)
@pytest.mark.parametrize("transform", [None, VARY])
@pytest.mark.parametrize("fits", [True, False])
def test_images_that_do_not_fit_stay_on_the_host(fits, transform, device, rng, tmp_path, monkeypatch):
    dataset = colours(rng)
    np.save(tmp_path / "images.npy", dataset.images)
    mapped = Dataset(np.load(tmp_path / "images.npy", mmap_mode="r"), dataset.labels, like=dataset)
    size = dataset.images.nbytes
    monkeypatch.setattr(type(device), "dataset_bytes", size - (not fits))
    monkeypatch.setattr("xpcnn.data.loader._COPIED", 200)
    copied = []
    asarray = type(device).asarray
    monkeypatch.setattr(type(device), "asarray", lambda *args: copied.append(args[1]) or asarray(*args))
    for images in (dataset, mapped, mapped.subset(np.arange(23)[::-1]).subset(np.arange(23)[::-1])):
        copied.clear()
        options = {"shuffle": True, "seed": 3, "transform": transform}
        ours = Loader(images, 6, device=device, **options)
        sizes = [x.nbytes for x in copied if x.dtype == np.uint8]
        assert sum(sizes) == (size if fits else 0)
        assert max(sizes, default=0) <= 300
        assert ours.device is device
        theirs = Loader(dataset, 6, **options)
        for epoch, start in ((0, 0), (2, 2), (1, 4)):
            same_batches(ours.epoch(epoch, start), theirs.epoch(epoch, start), device)


def test_the_host_reads_what_it_needs_of_a_memory_map(tmp_path, rng):
    dataset = colours(rng)
    np.save(tmp_path / "images.npy", dataset.images)
    mapped = Dataset(np.load(tmp_path / "images.npy", mmap_mode="r"), dataset.labels, like=dataset)
    for images in (mapped, mapped.subset([3, 1, 2])):
        assert Loader(images, 2)._images is images.images
    same_batches(Loader(mapped, 6), Loader(dataset, 6), CPU)


def test_reading_ahead_ends_with_the_loop(rng, monkeypatch):
    monkeypatch.setattr(type(DEVICE), "dataset_bytes", 0)
    batches = Loader(colours(rng), 1, device=DEVICE).epoch(0)
    next(batches)
    (thread,) = [thread for thread in threading.enumerate() if thread.name.startswith("xpcnn-loader")]
    batches.close()
    thread.join(10)
    assert not thread.is_alive()


def test_only_the_cpu_is_on_the_host(device):
    assert device.on_host == (device is CPU)


def test_a_run_makes_batches_on_its_device(device):
    dataset = load_dataset("mnist-mini").subset(slice(40))
    for augment, train in (("affine", True), ("affine", False), ("none", True), ("none", False)):
        loader = RunConfig(augment=augment).make_loader(dataset, train=train, device=device)
        assert loader.device is device


def test_training_on_it_ends_with_the_same_bits(device):
    dataset = load_dataset("mnist-mini").subset(slice(96))
    weights, results = [], []
    for loader in (Loader(dataset, 32, shuffle=True), Loader(dataset, 32, shuffle=True, device=device)):
        model = Sequential(Flatten(), Linear(784, 10, rng=np.random.default_rng(0))).to(device)
        Trainer(model, SGD(model.named_parameters(), 0.1)).fit(loader, 2)
        weights.append(to_host(model[1].weight.data))
        results.append(evaluate(model, loader).loss)
    np.testing.assert_array_equal(weights[1], weights[0])
    assert results[0] == results[1]
