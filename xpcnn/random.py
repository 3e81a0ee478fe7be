"""Seeded randomness that comes out the same on every device.

One integer seed feeds any number of independent, named streams. A stream is addressed, not consumed: the shuffle of
epoch 7 is `stream(seed, "shuffle", 7)` whether or not epochs 0 to 6 were ever drawn, so a run can be resumed anywhere.
"""

import hashlib
from typing import Any

import numpy as np

from .backend import Array, Namespace, array_namespace, chain, device_of


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
    # Not hash(), which is salted anew in every process, nor SeedSequence's own mixing of several numbers, to which a 0
    # more or less at the end makes no difference.
    address = repr((int(seed), name, *map(int, indices)))
    entropy = int.from_bytes(hashlib.sha256(address.encode()).digest(), "little")
    return np.random.Generator(np.random.PCG64(entropy))


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
    A hash of the first half joins the second: without it two keys that differ in the first half only would give the
    same numbers in another order.

    Args:
        xp: the array module to compute with.
        key: two integers of 32 bits.
    """
    bits = xp.arange(count, dtype=xp.uint32)
    words = [xp.uint32(key[0]), xp.uint32(key[1] ^ _lowbias32(key[0] ^ 0xFFFFFFFF))]
    device_of(bits).map_elements(_mix, bits, *words, in_pieces=True)
    return bits


@chain
def _mix(bits: Array, *words: Any) -> None:
    u = array_namespace(bits).uint32
    for word in words:
        bits ^= word
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
            bits ^= bits >> u(shift)
            bits *= u(factor)
        bits ^= bits >> u(16)


def _lowbias32(x: int) -> int:
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = (x ^ x >> shift) * factor % 2**32
    return x ^ x >> 16
