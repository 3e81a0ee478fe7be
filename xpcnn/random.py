"""Seeded randomness that comes out the same on every device.

One integer seed feeds any number of independent, named streams. A stream is addressed, not consumed: the shuffle of
epoch 7 is `stream(seed, "shuffle", 7)` whether or not epochs 0 to 6 were ever drawn, so a run can be resumed anywhere.
"""

import zlib

import numpy as np

from .backend import Array, Namespace


def stream(seed: int, name: str, *indices: int) -> np.random.Generator:
    """Return the host generator of one purpose, independent of every other name and index.

    Args:
        seed: the run's seed, a non-negative integer.
        name: the purpose, such as `"init"`, `"shuffle"` or `"augment"`.
        indices: non-negative integers that number the stream further, such as the epoch.

    Raises:
        ValueError: if the seed or an index is negative.
    """
    if seed < 0 or any(index < 0 for index in indices):
        raise ValueError(f"seed and indices must be non-negative integers, got {(seed, *indices)}")
    # CRC-32 and not hash(): the latter is salted anew in every process.
    key = (seed, zlib.crc32(name.encode()), *indices)
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


_default = stream(0, "default")


def manual_seed(seed: int) -> None:
    """Restart the generator that layers draw from when they are given none; at import its seed is 0."""
    global _default
    _default = stream(seed, "default")


def default_generator() -> np.random.Generator:
    """Return the generator that layers draw from when they are given none."""
    return _default


def counter_bits(xp: Namespace, count: int, key: tuple[int, int]) -> Array:
    """Return `count` 32-bit random integers that depend on their index and the key alone.

    A counter-based generator (Salmon et al. 2011) needs no state, so every device computes the same numbers in
    parallel. Each index is mixed twice by Wellons' 32-bit integer hash `lowbias32`, with half of the key before each.

    Args:
        xp: the array module to compute with.
        key: two integers of 32 bits.
    """
    bits = xp.arange(count, dtype=xp.uint32)
    for word in key:
        bits ^= xp.uint32(word)
        bits ^= bits >> xp.uint32(16)
        bits *= xp.uint32(0x7FEB352D)
        bits ^= bits >> xp.uint32(15)
        bits *= xp.uint32(0x846CA68B)
        bits ^= bits >> xp.uint32(16)
    return bits
