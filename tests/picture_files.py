"""Picture files written by hand: of kinds that no program writes, or with anything in their headers."""

import struct
import zlib


def png_file(size, bits, colour, rows, chunks=(), interlaced=0):
    """Return a PNG file.

    Args:
        size: `(width, height)`.
        bits, colour, interlaced: as in its header.
        rows: what its pixels are compressed from: for each row a zero byte, and then the pixels.
        chunks: pairs of a name and data, which come before the pixels.
    """

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", *size, bits, colour, 0, 0, interlaced)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def tiff_file(data, tags):
    """Return a TIFF file of one strip.

    Args:
        data: the strip.
        tags: its entries, numbers by number; those of the strip's place and size are added.
    """
    tags = {273: 8, 279: len(data)} | tags
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)
