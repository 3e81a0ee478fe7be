"""Seeded damage to bytes, and the repair of checksums so that damage gets past them."""

from __future__ import annotations

import hashlib
import random
import struct
import zlib

_BYTES = (0, 1, 2, 0x0A, 0x20, 0x22, 0x2D, 0x30, 0x39, 0x5B, 0x7B, 0x7F, 0x80, 0xFE, 0xFF)
_NUMBERS = (0, 1, 2, 3, 255, 256, 32_767, 65_535, 65_536, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**63, 2**64 - 1)
_WORDS = (
    b"null",
    b"true",
    b"-1",
    b"1e400",
    b"NaN",
    b'"x"',
    b"[]",
    b"{}",
    b"9" * 400,
    b"0.5",
    b'"\\ud800"',
    b"[" * 2000,
)


def mutate(content: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Return a copy of a file's content with one to four changes.

    Args:
        content: a file's.
        rng: draws the changes.
        others: contents to take pieces from.
    """
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        rng.choice(_CHANGES)(data, rng, others)
    return bytes(data)


def _place(data: bytearray, rng: random.Random) -> int:
    # Half of the changes hit the first bytes, where headers are.
    return rng.randrange(min(len(data), 64) + 1) if rng.random() < 0.5 else rng.randrange(len(data) + 1)


def _flip(data: bytearray, rng: random.Random, others: list[bytes]) -> None:
    if data:
        data[_place(data, rng) % len(data)] ^= 1 << rng.randrange(8)


def _put(data: bytearray, rng: random.Random, others: list[bytes]) -> None:
    if data:
        data[_place(data, rng) % len(data)] = rng.choice(_BYTES)


def _number(data: bytearray, rng: random.Random, others: list[bytes]) -> None:
    size, place = rng.choice((2, 4, 8)), _place(data, rng)
    number = rng.choice(_NUMBERS) % (1 << 8 * size)
    data[place : place + size] = number.to_bytes(size, rng.choice(("big", "little")))  # type: ignore[arg-type]


def _word(data: bytearray, rng: random.Random, others: list[bytes]) -> None:
    place = _place(data, rng)
    data[place : place + rng.choice((0, 1, 2, 4))] = rng.choice(_WORDS)


def _cut(data: bytearray, rng: random.Random, others: list[bytes]) -> None:
    place = _place(data, rng)
    del data[place : place + rng.choice((1, 2, 4, 16, 1 << 30))]


def _repeat(data: bytearray, rng: random.Random, others: list[bytes]) -> None:
    place = _place(data, rng)
    data[place:place] = data[place : place + rng.choice((1, 4, 64))] * rng.choice((1, 2, 50))


def _splice(data: bytearray, rng: random.Random, others: list[bytes]) -> None:
    other = rng.choice(others)
    start = rng.randrange(len(other) + 1)
    place = _place(data, rng)
    data[place : place + rng.choice((0, 8, 64))] = other[start : start + rng.choice((1, 8, 64))]


_CHANGES = (_flip, _put, _number, _word, _cut, _repeat, _splice)


def repair_png(content: bytes) -> bytes:
    """Return a PNG file with the checksums of its chunks made right, as far as its chunks can be told."""
    result, place = content[:8], 8
    while place + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, place)
        body = content[place + 4 : place + 8 + length]
        result += struct.pack(">I", length) + body + struct.pack(">I", zlib.crc32(body))
        place += 12 + length
    return result + content[place:]


def sign_cache(content: bytes) -> bytes:
    """Return a folder's cache with the checksum of its description made right, if it still has one."""
    length = int.from_bytes(content[-56:-48], "little")
    text = content[-56 - length : -56]
    return content if len(text) < length else content[:-48] + hashlib.sha256(text).digest() + content[-16:]
