"""Opening files: regular ones only, at once, and messages of one line whatever their names hold."""

import os
import socket

import pytest

from xpcnn.data.errors import DataError, one_line
from xpcnn.data.files import open_file
from xpcnn.data.formats.cifar import RECORD, read_cifar
from xpcnn.data.formats.idx import read_idx

needs_fifos = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no FIFOs in its file system")


def test_files_and_links_to_them_are_read(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link"):
        with open_file(tmp_path / name) as file:
            assert file.read() == b"abc"


@needs_fifos
def test_what_is_no_file_is_refused_at_once(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)  # the name of a socket has to be short
    kinds = {"fifo": "a FIFO", "folder": "a folder", "socket": "a socket", "/dev/zero": "a device"}
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        for name, kind in kinds.items():
            with pytest.raises(OSError, match=f"it is {kind}, not a file"):
                open_file(name)
            for read in (read_idx, read_cifar):
                with pytest.raises(DataError, match=f"{name}: cannot be read .it is {kind}, not a file"):
                    read(name)
    with pytest.raises(OSError, match="null"):
        open_file("a\0b")


@needs_fifos
def test_a_fifo_put_in_between_the_look_and_the_opening_is_not_waited_for(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").write_bytes(b"")
    looked = (tmp_path / "file").stat()
    monkeypatch.setattr("pathlib.Path.stat", lambda self: looked)
    with pytest.raises(OSError, match="it is a FIFO"):
        open_file(tmp_path / "fifo")


def test_a_limit_holds_before_the_content_is_read(tmp_path):
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(RECORD << 30)  # 3 TB that take no room on the disk
    with pytest.raises(DataError, match=f"expected at most {RECORD} bytes, got {RECORD << 30}"):
        read_cifar(tmp_path / "sparse", RECORD)
    header = bytes.fromhex("00000801 00000010")
    (tmp_path / "idx").write_bytes(header + bytes(16))
    assert len(read_idx(tmp_path / "idx", 24)) == 16
    with pytest.raises(DataError, match="takes 16 bytes, but the file may have 23"):
        read_idx(tmp_path / "idx", 23)


def test_messages_stay_on_one_line_and_out_of_the_terminals_controls():
    assert str(DataError("a\nb\x1b[31m\udcff\u2028 ü 数\u202f×")) == "a\\nb\\x1b[31m\\udcff\\u2028 ü 数\u202f×"
    assert one_line(ValueError("x\ry")) == "x\\ry"
