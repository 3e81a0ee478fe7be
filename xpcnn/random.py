"""Seeded randomness that comes out the same on every device.

One integer seed feeds any number of independent, named streams. A stream is addressed, not consumed: the shuffle of
epoch 7 is `stream(seed, "shuffle", 7)` whether or not epochs 0 to 6 were ever drawn, so a run can be resumed anywhere.
"""

import hashlib

import numpy as np

from .backend import Array, Namespace, device_of


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
    device = device_of(bits)
    words = [xp.uint32(key[0]), xp.uint32(key[1] ^ _lowbias32(key[0] ^ 0xFFFFFFFF))]
    rounds = [(xp.uint32(16), xp.uint32(0x7FEB352D)), (xp.uint32(15), xp.uint32(0x846CA68B))]
    last_shift = xp.uint32(16)
    length = max(1, device.tile_bytes // 32)  # a part and its shifted copy stay in cache for all passes over them

    def mix(share: Array) -> None:
        for start in range(0, share.size, length):
            part = share[start : start + length]
            shifted = device.scratch(part.shape, part.dtype, "shifted")
            for word in words:
                part ^= word
                for shift, factor in rounds:
                    xp.right_shift(part, shift, out=shifted)
                    part ^= shifted
                    part *= factor
                xp.right_shift(part, last_shift, out=shifted)
                part ^= shifted

    device.map_elements(mix, bits)
    return bits


def _lowbias32(x: int) -> int:
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = (x ^ x >> shift) * factor % 2**32
    return x ^ x >> 16
