"""One seed gives the same weights, orders, augmented images and dropout masks on every device, bit for bit."""

import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from xpcnn.backend import CPU, device_of, to_host
from xpcnn.data import Loader, load_dataset, make_transform
from xpcnn.models import MODELS
from xpcnn.nn import Dropout, Sequential
from xpcnn.random import counter_bits, stream

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", MODELS)
def test_initial_weights(name, device):
    def weights(where):
        model = MODELS[name](seed=3).to(where)
        return {key: to_host(array) for key, array in model.state_dict().items()}

    expected, found = weights(CPU), weights(device)
    assert expected.keys() == found.keys()
    for key, array in expected.items():
        assert found[key].dtype == array.dtype
        np.testing.assert_array_equal(found[key], array, err_msg=key)


def test_shuffles_and_augmentation(device):
    dataset = load_dataset("mnist-mini").subset(slice(64))
    vary = make_transform("flip,crop,affine,colour,cutout", dataset.shape)
    ours, theirs = (Loader(dataset, 16, shuffle=True, seed=5, transform=vary, device=where) for where in (device, CPU))
    for epoch in (0, 3):
        for (images, labels), (again, same) in zip(ours.epoch(epoch), theirs.epoch(epoch), strict=True):
            assert device_of(images) is device
            np.testing.assert_array_equal(to_host(images), again)
            np.testing.assert_array_equal(to_host(labels), same)


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_masks_of_several_layers_and_steps(p, device):
    x = np.ones((5, 4, 3, 3), np.float32)

    def masks(where):
        model = Sequential(*(Dropout(p, rng=stream(7, "init", i)) for i in range(3)))
        return [to_host(layer(where.asarray(x))) for _ in range(3) for layer in model]

    expected, found = masks(CPU), masks(device)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert all((a != b).any() for a, b in combinations(found, 2))


@pytest.mark.parametrize("count", [1, 1000, (1 << 17) - 1, (1 << 17) + 1, 300_001])
def test_bits_do_not_depend_on_how_the_work_is_cut(count, device):
    threads = CPU.threads
    try:
        CPU.threads = 1
        one = counter_bits(np, count, (11, 12))
        CPU.threads = 3
        np.testing.assert_array_equal(counter_bits(np, count, (11, 12)), one)
    finally:
        CPU.threads = threads
    np.testing.assert_array_equal(to_host(counter_bits(device.xp, count, (11, 12))), one)
    np.testing.assert_array_equal(counter_bits(np, count // 2, (11, 12)), one[: count // 2])


# -- Statistics of dropout's masks: with n draws a correlation has the standard deviation 1/√n ----------------------

N = 1 << 18


def mask(key, p=0.5, n=N):
    kept = counter_bits(np, n, key) >= np.uint32(p * 2**32)
    return (kept - (1 - p)) / np.sqrt(p * (1 - p))  # mean 0, variance 1


@pytest.mark.parametrize("p", [0.02, 0.3, 0.5, 0.9])
def test_mean_and_variance(p):
    for key in ((0, 0), (0, 1), (2**32 - 1, 77)):
        values = mask(key, p)
        assert abs(values.mean()) < 4.5 / np.sqrt(N)
        assert abs(values.var() - 1) < 4.5 * np.sqrt((1 / (p * (1 - p)) - 4) / N) + 1e-4


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_no_serial_correlation_at_any_lag(p):
    spectrum = np.fft.rfft(mask((123, 4), p), 2 * N)
    correlation = np.fft.irfft(abs(spectrum) ** 2)[1 : N // 2] / N
    assert abs(correlation).max() < 6 / np.sqrt(N)  # the largest of 130,000: about 4.5 are expected
    for lag in (1, 2, 3, 4, 8, 16, 28, 32, 784, 1024, 4096, 65_536):
        assert abs(correlation[lag - 1]) < 4.5 / np.sqrt(N)


def test_no_correlation_between_layers_or_steps():
    """Layers differ in the first word of the key, steps in the second; both are often small and consecutive."""
    keys = [(layer, step) for layer in (0, 1, 2, 3, 1 << 31) for step in (0, 1, 2, 3, 100)]
    masks = np.array([mask(key, n=1 << 15) for key in keys])
    correlation = masks @ masks.T / masks.shape[1] - np.eye(len(keys))
    assert abs(correlation).max() < 5 / np.sqrt(masks.shape[1])
    # Nor is one mask another one moved along: the same with every shift, by way of the spectrum.
    spectra = np.fft.rfft(masks[:6])
    for i, j in combinations(range(6), 2):
        shifted = np.fft.irfft(spectra[i] * spectra[j].conj()) / masks.shape[1]
        assert abs(shifted).max() < 6.5 / np.sqrt(masks.shape[1])


def test_pairs_and_runs_come_as_often_as_by_chance():
    kept = counter_bits(np, N, (5, 6)) >= np.uint32(2**31)
    triples = kept[:-2] * 4 + kept[1:-1] * 2 + kept[2:]
    counts = np.bincount(triples, minlength=8)
    assert abs(counts - N / 8).max() < 5 * np.sqrt(N / 8)
    runs = 1 + np.count_nonzero(kept[1:] != kept[:-1])
    assert abs(runs - N / 2) < 5 * np.sqrt(N) / 2


def test_the_benchmark_runs():
    command = [sys.executable, str(ROOT / "scripts" / "benchmark_dropout.py"), "--sizes", "1000", "--rounds", "2"]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONPATH": str(ROOT)})
    assert result.stdout.splitlines()[-1].split()[0] == "1,000"
