"""CIFAR-10's records, and files that are none."""

import numpy as np
import pytest

from xpcnn.data import DataError
from xpcnn.data.formats.cifar import RECORD, read_cifar


def test_records_are_read(tmp_path):
    records = np.random.default_rng(0).integers(0, 10, (3, 3073), np.uint8)
    records.tofile(tmp_path / "batch.bin")
    np.testing.assert_array_equal(read_cifar(tmp_path / "batch.bin"), records)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "got 0 bytes"),
        (bytes(RECORD - 1), "whole records of 3073 bytes, got 3072 bytes"),
        (bytes(RECORD + 1), "got 3074 bytes"),
        (b"\x0a" + bytes(RECORD - 1), "labels from 0 to 9, got 10"),
        (None, "no such file"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, content, fault):
    path = tmp_path / "batch.bin"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=fault) as caught:
        read_cifar(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_cifar(tmp_path)
