"""Seeded random numbers that are the same on every device.

One integer seed gives any number of independent, named streams. A stream depends on its name and indices alone: the
shuffle of epoch 7 is `stream(seed, "shuffle", 7)` whether or not epochs 0 to 6 were drawn, so a run can be resumed
anywhere.
"""

import hashlib
from typing import Any

import numpy as np

from .backend import Array, Namespace, array_namespace, chain, device_of


def stream(seed: int, name: str, *indices: int) -> np.random.Generator:
    """Return a NumPy generator for one purpose, independent of those of all other names and indices.

    Args:
        seed: the run's seed, a non-negative integer.
        name: the purpose, such as `"init"`, `"shuffle"` or `"augment"`.
        indices: further non-negative integers that distinguish the stream, such as the epoch.

    Returns:
        the same generator, at its start, for the same arguments.

    Raises:
        ValueError: if the seed or an index is negative.
    """
    if seed < 0 or any(index < 0 for index in indices):
        raise ValueError(f"seed and indices must be non-negative integers, got {(seed, *indices)}")
    # Not hash(), which differs between processes; nor SeedSequence's own mixing of several numbers, which
    # ignores trailing zeros.
    address = repr((int(seed), name, *map(int, indices)))
    entropy = int.from_bytes(hashlib.sha256(address.encode()).digest(), "little")
    return np.random.Generator(np.random.PCG64(entropy))


_default = stream(0, "default")


def manual_seed(seed: int) -> None:
    """Reset the default generator, which layers draw from if they are given none; at import its seed is 0."""
    global _default
    _default = stream(seed, "default")


def default_generator() -> np.random.Generator:
    """Return the generator that layers draw from if they are given none."""
    return _default


def counter_bits(xp: Namespace, count: int, key: tuple[int, Any], part: tuple[int, int, int] | None = None) -> Array:
    """Return `count` random 32-bit integers, each a function of its index and the key alone.

    A counter-based generator (Salmon et al. 2011) has no state, so every device computes the same numbers in parallel.
    Each index is hashed twice with Wellons' 32-bit integer hash `lowbias32`, XORed with half of the key before each.
    The second half is first combined with a hash of the first: otherwise two keys that differ only in the first half
    would give the same numbers in another order.

    Args:
        xp: the array module to compute with.
        count: how many integers to return.
        key: two 32-bit integers; the second may be an array `(1,)` of uint32.
        part: `(first, length, total)` for the columns from `first` on, `length` of them, of a matrix with `total`
            columns whose elements are numbered row by row; None for all.

    Returns:
        `(count,)`, uint32.
    """
    bits = xp.arange(count, dtype=xp.uint32)
    if part is not None:
        first, length, total = (xp.uint32(number) for number in part)
        bits += bits // length * (total - length) + first
    return _mixed(bits, key)


def index_bits(indices: Array, key: tuple[int, Any]) -> Array:
    """Return the random 32-bit integers that `counter_bits` has at some indices.

    Args:
        indices: integers from 0 to below 2³², contiguous.
        key: as in `counter_bits`.

    Returns:
        uint32, of the same shape.
    """
    return _mixed(indices.astype(array_namespace(indices).uint32), key)


def _mixed(bits: Array, key: tuple[int, Any]) -> Array:
    """Hash each of `bits` in place with the key, and return them."""
    xp = array_namespace(bits)
    words = [xp.uint32(key[0]), key[1] ^ xp.uint32(_lowbias32(key[0] ^ 0xFFFFFFFF))]
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
