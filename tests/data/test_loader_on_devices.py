"""Batches made on the device are those of the host, bit for bit."""

import numpy as np
import pytest
from strict_xp import DEVICE, forbid_host_reads

from xpcnn.backend import CPU, device_of, to_host
from xpcnn.data import Dataset, Loader, RandomShift, load_dataset
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


def test_an_epoch_reads_nothing_back(rng):
    loader = Loader(colours(rng), 5, device=DEVICE, shuffle=True)
    with forbid_host_reads():
        assert sum(len(labels) for _, labels in loader) == 23


def test_augmentation_is_left_to_the_host(rng, device):
    dataset, transform = colours(rng), RandomShift(1)
    ours, theirs = (Loader(dataset, 5, transform=transform, device=where) for where in (device, CPU))
    assert ours.device is CPU
    for (images, labels), (pixels, classes) in zip(ours.epoch(1), theirs.epoch(1), strict=True):
        assert device_of(images) is device_of(labels) is CPU
        np.testing.assert_array_equal(images, pixels)
        np.testing.assert_array_equal(labels, classes)


def test_only_the_cpu_is_on_the_host(device):
    assert device.on_host == (device is CPU)


def test_a_run_makes_batches_on_its_device_where_it_can(device):
    dataset = load_dataset("mnist-mini").subset(slice(40))
    for augment, train in ((True, True), (True, False), (False, True), (False, False)):
        loader = RunConfig(augment=augment).make_loader(dataset, train=train, device=device)
        assert loader.device is (CPU if augment and train else device)


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
