"""Randomness that is the same in every process and on every device, and that has no pattern."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import assert_close
from inputs import refused

import xpcnn
from xpcnn.random import counter_bits, default_generator, manual_seed, stream

STREAMS = [
    (0, "init"),
    (0, "shuffle"),
    (1, "init"),
    (0, "init", 0),
    (0, "init", 1),
    (0, "init", 0, 0),
    (0, "init", 1, 0),
]
STREAMS += [(2**31, "init"), (2**32, "init"), (2**40 + 7, "dropout", 2**20), (7, "dropout", 0, 2**40)]


def test_streams_are_the_same_in_every_process():
    code = (
        f"from xpcnn.random import stream\nfor key in {STREAMS}: print(stream(*key).integers(2**63, size=2).tolist())"
    )
    here = [str(stream(*key).integers(2**63, size=2).tolist()) for key in STREAMS]
    for salt in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": salt, "PYTHONPATH": str(Path(xpcnn.__file__).parents[1])}
        there = subprocess.run(
            [sys.executable, "-P", "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        assert there.stdout.splitlines() == here


def test_streams_are_independent():
    draws = np.array([stream(*key).standard_normal(20_000) for key in STREAMS])
    assert np.abs(np.corrcoef(draws) - np.eye(len(STREAMS))).max() < 5 / np.sqrt(20_000)


def test_a_stream_is_addressed_not_consumed():
    first = stream(3, "shuffle", 7).permutation(50)
    stream(3, "shuffle", 6).permutation(50)
    assert np.array_equal(stream(3, "shuffle", 7).permutation(50), first)


@pytest.mark.parametrize("key", [(-1, "init"), (0, "init", -1), (0, "init", 3, -2)])
def test_negative_numbers_are_refused(key):
    with refused("non-negative", str(min(n for n in key if isinstance(n, int)))):
        stream(*key)


def test_the_default_generator_restarts_from_its_seed():
    manual_seed(4)
    first, second = default_generator().random(5), default_generator().random(5)
    assert not np.array_equal(first, second)
    manual_seed(5)
    assert not np.array_equal(default_generator().random(5), first)
    manual_seed(4)
    assert np.array_equal(default_generator().random(5), first)


def lowbias32(x):
    """Wellons' integer hash, in Python's unbounded integers."""
    x = (x ^ x >> 16) * 0x7FEB352D % 2**32
    x = (x ^ x >> 15) * 0x846CA68B % 2**32
    return x ^ x >> 16


@pytest.mark.parametrize("key", [(0, 0), (1, 2), (2**32 - 1, 12345)])
def test_counter_bits_are_the_same_on_every_device(key, device):
    second = key[1] ^ lowbias32(key[0] ^ 0xFFFFFFFF)
    expected = [lowbias32(lowbias32(i ^ key[0]) ^ second) for i in range(300)]
    assert_close(counter_bits(device.xp, 300, key), np.array(expected, np.uint32), 0, 0, device=device)
    more = counter_bits(device.xp, 100_003, key)
    assert_close(more, counter_bits(np, 100_003, key), 0, 0, device=device)


def test_counter_bits_are_uniform_and_differ_by_key():
    keys = [(0, 0), (0, 1), (1, 0), (1, 1), (2**31, 0), (123456789, 987654321)]
    drawn = [counter_bits(np, 1 << 18, key) for key in keys]
    for bits in drawn:
        for byte in bits.view(np.uint8).reshape(-1, 4).T:
            expected = byte.size / 256
            chi_square = np.sum((np.bincount(byte, minlength=256) - expected) ** 2) / expected
            assert 255 - 5 * 22.6 < chi_square < 255 + 5 * 22.6  # mean 255, standard deviation √510
    for i, one in enumerate(drawn):
        for other in drawn[:i]:
            assert np.mean(one == other) < 1e-4
            agreeing = np.unpackbits((one ^ other).view(np.uint8)).mean()
            assert abs(agreeing - 0.5) < 5 * 0.5 / np.sqrt(32 * one.size)
