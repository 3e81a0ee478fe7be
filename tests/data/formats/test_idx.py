"""The IDX reader and writer: every data type, both wrappings, and every way in which a file can be wrong."""

import gzip
import struct
import tracemalloc

import numpy as np
import pytest

from xpcnn.data import DataError, read_idx, write_idx

# The header of 2 × 3 bytes, and the whole file, by hand from the format's description.
HEADER = bytes.fromhex("00000802 00000002 00000003")
FILE = HEADER + bytes(range(6))


def test_bytes_are_those_of_the_format(tmp_path):
    write_idx(tmp_path / "a", np.array([[1, -2]], np.int16))
    assert (tmp_path / "a").read_bytes() == bytes.fromhex("00000b02 00000001 00000002 0001 fffe")


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "i4", "f4", "f8"])
@pytest.mark.parametrize("name", ["plain", "packed.gz"])
@pytest.mark.parametrize("order", "<>")
def test_what_is_written_is_read(tmp_path, dtype, name, order):
    array = np.random.default_rng(0).integers(-100, 100, (3, 4, 5)).astype(order + dtype)[:, ::-1]  # not contiguous
    write_idx(tmp_path / name, array)
    result = read_idx(tmp_path / name)
    assert result.dtype == np.dtype(dtype)
    assert result.dtype.isnative
    assert result.flags.writeable
    np.testing.assert_array_equal(result, array)


def test_empty_arrays_keep_their_shape(tmp_path):
    write_idx(tmp_path / "empty", np.zeros((0, 28, 28), np.uint8))
    assert read_idx(tmp_path / "empty").shape == (0, 28, 28)


def test_compression_is_seen_in_the_content_not_the_name(tmp_path):
    (tmp_path / "plain.gz").write_bytes(FILE)
    (tmp_path / "packed").write_bytes(gzip.compress(FILE, mtime=0))
    np.testing.assert_array_equal(read_idx(tmp_path / "plain.gz"), np.arange(6).reshape(2, 3))
    np.testing.assert_array_equal(read_idx(tmp_path / "packed"), np.arange(6).reshape(2, 3))


def test_compressed_bytes_depend_on_the_array_alone(tmp_path):
    for name in ("a.gz", "another.gz"):
        write_idx(tmp_path / name, np.arange(6, dtype=np.uint8))
    packed = (tmp_path / "a.gz").read_bytes()
    assert packed == (tmp_path / "another.gz").read_bytes()
    assert packed[3:9] == bytes(5) + b"\x02"  # no flags, so no name; time 0; the best compression


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "not an IDX file"),
        (b"\x89PNG\r\n\x1a\n", "not an IDX file"),
        (b"\x00\x00\x0a\x01" + FILE[4:], "not an IDX file"),  # no such data type
        (b"\x00\x00\x08\x00" + FILE[4:], "not an IDX file"),  # no dimensions
        (HEADER[:9], "truncated in the header"),
        (FILE[:-1], r"truncated: shape \(2, 3\) of uint8 takes 6 bytes, found 5"),
        (FILE + b"\0", "trailing bytes"),
        (gzip.compress(FILE[:-1], mtime=0), "truncated: shape"),
        (gzip.compress(FILE + b"\0", mtime=0), "trailing bytes"),
        (gzip.compress(FILE, mtime=0)[:-9], "corrupt gzip"),
        (gzip.compress(FILE, mtime=0)[:-8] + bytes(8), "corrupt gzip"),  # another checksum
        (gzip.compress(FILE, mtime=0) + b"junk", "corrupt gzip"),
        (gzip.compress(FILE, mtime=0)[:10] + b"\xff" * 20, "corrupt gzip"),
        (struct.pack(">BBBB5I", 0, 0, 14, 5, *[2**32 - 1] * 5), "truncated: shape"),
        (
            gzip.compress(struct.pack(">BBBB2I", 0, 0, 8, 2, 2**32 - 1, 2**31) + bytes(1000), mtime=0),
            "truncated: shape",
        ),
        (struct.pack(">BBBB100I", 0, 0, 8, 100, *[1] * 100) + b"\0", "impossible shape"),
        (struct.pack(">BBBB4I", 0, 0, 8, 4, 0, *[2**32 - 1] * 3), "impossible shape"),
    ],
)
def test_a_wrong_file_gets_one_clear_line_and_no_memory(tmp_path, content, fault):
    path = tmp_path / "digits"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=fault) as caught:
            read_idx(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert peak < 4 << 20


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(DataError, match="absent: no such file"):
        read_idx(tmp_path / "absent")
    with pytest.raises(DataError, match="cannot be read"):
        read_idx(tmp_path)


@pytest.mark.parametrize("array", [np.zeros(3, np.int64), np.zeros((), np.uint8)])
def test_arrays_that_do_not_fit_the_format_leave_no_file(tmp_path, array):
    with pytest.raises(DataError, match=r"uint8, int8, int16, int32, float32, float64, got . of"):
        write_idx(tmp_path / "a.gz", array)
    assert not list(tmp_path.iterdir())
