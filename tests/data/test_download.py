"""Downloads from a server on this computer: mirrors, sums, archives, and nothing left behind by a failure."""

import contextlib
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from xpcnn.data import DATASETS, DataError, load_dataset, write_idx
from xpcnn.data import fetch as module
from xpcnn.data.download import download_files
from xpcnn.data.formats.format import Published
from xpcnn.data.formats.idx import idx_header

LABELS, IMAGES = "t10k-labels-idx1-ubyte.gz", "t10k-images-idx3-ubyte.gz"


class Server:
    """Serves `pages` by path and notes what was asked for.

    A page is a body, a body and the length it claims, an address to be redirected to, or a way to break the protocol.
    """

    def __init__(self):
        self.pages, self.asked, self.finished = {}, [], threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.asked.append(self.path)
                page = server.pages.get(self.path)
                if page == "silence":
                    server.finished.wait(20)
                    return
                if page == "trickle":
                    with contextlib.suppress(ConnectionError):
                        while not server.finished.wait(0.05):
                            self.wfile.write(b"H")
                    return
                if isinstance(page, str) and ":" in page:
                    self.send_response(302)
                    self.send_header("Location", page)
                    self.end_headers()
                    return
                if page == "nonsense":
                    self.wfile.write(b"nonsense\r\n")
                    return
                if page is None:
                    self.send_error(404)
                    return
                body, length = page if isinstance(page, tuple) else (page, len(page))
                self.send_response(200)
                if length is not None:
                    self.send_header("Content-Length", str(length))
                self.end_headers()
                with contextlib.suppress(ConnectionError):  # it need not be read to the end
                    self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    server = Server()
    yield server
    server.finished.set()
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def published(tmp_path, server, monkeypatch):
    """Three test images in MNIST's files, published at `/b/` of the server; `/a/` is the first mirror, and empty."""
    arrays = {IMAGES: np.arange(3 * 4, dtype=np.uint8).reshape(3, 2, 2), LABELS: np.array([1, 0, 2], np.uint8)}
    sums = {}
    for name, array in arrays.items():
        content = idx_header(array) + array.tobytes()
        sums[name] = Published(hashlib.sha256(content).hexdigest(), len(content))
        write_idx(tmp_path / name, array)
        server.pages[f"/b/{name}"] = (tmp_path / name).read_bytes()
    mirrors = f"{server.address}/a/", f"{server.address}/b/"
    monkeypatch.setitem(DATASETS, "mnist", replace(DATASETS["mnist"], files={"test": sums}, mirrors=mirrors))
    return server


def test_absent_files_are_fetched_once_and_only_those_of_the_split(tmp_path, published, capsys):
    folder = tmp_path / "deep" / "down"
    for _ in range(2):
        assert load_dataset("mnist", "test", folder).labels.tolist() == [1, 0, 2]
    assert published.asked == [f"/{mirror}/{name}" for name in (IMAGES, LABELS) for mirror in "ab"]
    assert sorted(path.name for path in (folder / "mnist").iterdir()) == [IMAGES, LABELS]
    output, errors = capsys.readouterr()
    assert output == ""
    assert f"{LABELS}: 100%" in errors


@pytest.mark.parametrize(
    "first", [b"<html>moved</html>", b"", "other content", "cut", "nonsense", "silence"], ids=lambda page: str(page)[:6]
)
def test_a_mirror_that_fails_is_passed_over(tmp_path, published, first, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT", 0.2)
    right = published.pages[f"/b/{IMAGES}"]
    published.pages[f"/a/{IMAGES}"] = {
        "other content": published.pages[f"/b/{LABELS}"],
        "cut": (right[:-5], len(right)),
    }.get(first, first)
    started = time.monotonic()
    assert len(load_dataset("mnist", "test", tmp_path)) == 3
    assert time.monotonic() - started < 10  # the server keeps silent for longer
    assert published.asked[:2] == [f"/a/{IMAGES}", f"/b/{IMAGES}"]


def test_when_all_mirrors_fail_one_line_says_how_to_go_on(tmp_path, published):
    published.pages = {f"/b/{IMAGES}": b"<html>"}
    DATASETS["mnist"] = replace(DATASETS["mnist"], mirrors=("http://127.0.0.1:9/", *DATASETS["mnist"].mirrors))
    with pytest.raises(DataError) as caught:
        load_dataset("mnist", "test", tmp_path / "data")
    line, folder = str(caught.value), tmp_path / "data" / "mnist"
    assert "\n" not in line
    assert f"http://127.0.0.1:9/{IMAGES}: <urlopen error [Errno" in line
    assert f"{published.address}/a/{IMAGES}: HTTP Error 404: Not Found" in line
    assert f"{published.address}/b/{IMAGES}: {IMAGES}: not an IDX file" in line
    assert line.endswith(f"put {IMAGES} into {folder} by hand")
    assert not list(folder.iterdir())


def test_an_interrupted_download_leaves_no_file(tmp_path, published):
    def interrupt(path):
        assert (tmp_path / "new") in path.parents  # on the same disk, so that it can be moved in one step
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download_files([f"{published.address}/b/"], tmp_path / "new", {LABELS: 11}, interrupt)
    assert not list((tmp_path / "new").iterdir())


def test_a_folder_that_cannot_be_made_is_named(tmp_path, published):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"file/mnist: lacks .*, and cannot be written \("):
        load_dataset("mnist", "test", tmp_path / "file")
    assert published.asked == []


@pytest.mark.parametrize("claimed", [True, False], ids=["said", "unsaid"])
def test_a_file_beyond_its_size_is_not_fetched_to_the_end(tmp_path, server, claimed):
    content = bytes(40 << 20)
    server.pages["/one"] = (content, len(content) if claimed else None)
    fault = "has 41943040 bytes, expected at most" if claimed else "has more than the 1048590 bytes"
    with pytest.raises(DataError, match=fault):
        download_files([f"{server.address}/"], tmp_path, {"one": 14}, check_content)
    assert not list(tmp_path.iterdir())


def test_content_that_unpacks_to_more_than_was_published_takes_no_memory(tmp_path, published):
    """2 GB of zeros make 2 MB of gzip, with a header of its own that promises as much."""
    import gzip
    import struct
    import tracemalloc

    member = gzip.compress(bytes(64 << 20))
    published.pages[f"/a/{IMAGES}"] = gzip.compress(struct.pack(">BBBBI", 0, 0, 8, 1, 2 << 30)) + member * 32
    tracemalloc.start()
    try:
        assert len(load_dataset("mnist", "test", tmp_path)) == 3  # from the other mirror
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20 << 20
    assert published.asked[:2] == [f"/a/{IMAGES}", f"/b/{IMAGES}"]


def test_a_trickle_of_bytes_ends_too(tmp_path, published, monkeypatch):
    """No single read takes long, but the headers never end."""
    monkeypatch.setattr(module, "GRACE", 0.5)
    monkeypatch.setattr(module, "SLOWEST", 1 << 30)
    published.pages[f"/a/{IMAGES}"] = "trickle"
    started = time.monotonic()
    assert len(load_dataset("mnist", "test", tmp_path)) == 3
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("target", "fault"),
    [
        ("{server}/one", "HTTP Error 302: .* infinite loop"),
        ("file:///etc/passwd", "HTTP Error 302: .* not allowed"),
        ("http:", "no host given|HTTP Error 302"),
    ],
)
def test_redirections_lead_neither_in_circles_nor_to_local_files(tmp_path, server, target, fault):
    server.pages["/one"] = target.format(server=server.address)
    with pytest.raises(DataError, match=f"/one: .*({fault})") as caught:
        download_files([f"{server.address}/"], tmp_path, {"one": 14}, check_content)
    assert "\n" not in str(caught.value)
    server.pages |= {"/one": f"{server.address}/there", "/there": b"content of one"}
    download_files([f"{server.address}/"], tmp_path, {"one": 14}, check_content)


def test_the_leavings_of_a_killed_download_are_removed_by_the_next(tmp_path, server):
    fetching = """if True:
        import sys
        from pathlib import Path
        from xpcnn.data.download import download_files
        download_files([sys.argv[1]], Path(sys.argv[2]), {"slow": 14}, print)
    """
    server.pages |= {"/slow": "silence", "/one": b"content of one"}
    command = [sys.executable, "-c", fetching, f"{server.address}/", str(tmp_path)]
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}) as process:
        for _ in range(1000):
            if server.asked:
                break
            time.sleep(0.02)
        (left,) = tmp_path.glob(".download-*")
        new, old, link = (tmp_path / f".download-{name}" for name in ("new", "old", "link"))
        new.mkdir()  # without a lock: another process may be about to lock it
        old.mkdir()
        os.utime(old, (0, 0))
        link.symlink_to(tmp_path)
        download_files([f"{server.address}/"], tmp_path, {"one": 14}, check_content)
        assert {*tmp_path.iterdir()} == {tmp_path / "one", left, new, link}  # its owner lives
        process.kill()
    (tmp_path / "one").unlink()
    download_files([f"{server.address}/"], tmp_path, {"one": 14}, check_content)
    assert {*tmp_path.iterdir()} == {tmp_path / "one", new, link}


def archive(*members):
    """A gzipped tar of `(name, content)` files; content None makes a folder or, with no `/` at the end, a link."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if content is None:
                member.type, member.linkname = tarfile.DIRTYPE if name.endswith("/") else tarfile.SYMTYPE, "/etc/passwd"
            else:
                member.size = len(content)
            tar.addfile(member, None if content is None else io.BytesIO(content))
    return packed.getvalue()


def check_content(path):
    assert path.read_bytes() == b"content of " + path.name.encode()


def test_only_the_wanted_files_leave_an_archive_and_only_into_the_folder(tmp_path, server):
    server.pages["/all.tar.gz"] = archive(
        ("../evil", b"evil"),
        ("/evil", b"evil"),
        ("readme", b"unwanted"),
        ("one", None),
        ("two/", None),
        ("../../one", b"content of one"),
        ("deep/two", b"content of two"),
        ("three", b"content of three"),
    )
    folder = tmp_path / "outer" / "inner"
    folder.mkdir(parents=True)
    (folder / "three").write_bytes(b"mine")
    sizes = {"one": 14, "two": 14}
    download_files([f"{server.address}/"], folder, sizes, check_content, archive=("all.tar.gz", 28))
    found = {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {
        "outer/inner/one": b"content of one",
        "outer/inner/two": b"content of two",
        "outer/inner/three": b"mine",
    }
    assert not (folder / "one").is_symlink()
    assert not Path("/evil").exists()
    assert server.asked == ["/all.tar.gz"]


@pytest.mark.parametrize(
    ("page", "fault"),
    [
        (b"no archive", "corrupt archive"),
        (archive(("one", b"content of one" * 5000))[:-30], "corrupt archive"),
        (archive(("two", b"content of two")), "the archive lacks one"),
        (archive(("one", b"content of another size")), "the archive lacks one"),
        (archive(("zeros", bytes(3 << 20)), ("one", b"content of one")), "holds more than was published"),
        (archive(("x" * (3 << 20), b"")), "holds more than was published"),
    ],
)
def test_a_damaged_archive_is_refused(tmp_path, server, page, fault):
    server.pages["/all.tar.gz"] = page
    with pytest.raises(DataError, match=rf"/all.tar.gz: .*{fault}.* put one into {tmp_path} by hand"):
        download_files([f"{server.address}/"], tmp_path, {"one": 14}, check_content, archive=("all.tar.gz", 28))
    assert not list(tmp_path.iterdir())
