"""Downloads from a server on this computer: mirrors, sums, archives, and nothing left behind by a failure."""

import hashlib
import io
import tarfile
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from xpcnn.data import DATASETS, DataError, load_dataset, write_idx
from xpcnn.data import download as module
from xpcnn.data.download import download_files
from xpcnn.data.formats.idx import idx_header

LABELS, IMAGES = "t10k-labels-idx1-ubyte.gz", "t10k-images-idx3-ubyte.gz"


class Server:
    """Serves `pages` by path and notes what was asked for.

    A page is a body, a body and the length it claims, or one of two ways to break the protocol.
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
                if page == "nonsense":
                    self.wfile.write(b"nonsense\r\n")
                    return
                if page is None:
                    self.send_error(404)
                    return
                body, length = page if isinstance(page, tuple) else (page, len(page))
                self.send_response(200)
                self.send_header("Content-Length", str(length))
                self.end_headers()
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
    sums = {name: hashlib.sha256(idx_header(array) + array.tobytes()).hexdigest() for name, array in arrays.items()}
    for name, array in arrays.items():
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
        download_files([f"{published.address}/b/"], tmp_path / "new", [LABELS], interrupt)
    assert not list((tmp_path / "new").iterdir())


def test_a_folder_that_cannot_be_made_is_named(tmp_path, published):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"file/mnist: lacks .*, and cannot be written \("):
        load_dataset("mnist", "test", tmp_path / "file")
    assert published.asked == []


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
    download_files([f"{server.address}/"], folder, ["one", "two"], check_content, archive="all.tar.gz")
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
    ],
)
def test_a_damaged_archive_is_refused(tmp_path, server, page, fault):
    server.pages["/all.tar.gz"] = page
    with pytest.raises(DataError, match=rf"/all.tar.gz: .*{fault}.* put one into {tmp_path} by hand"):
        download_files([f"{server.address}/"], tmp_path, ["one"], check_content, archive="all.tar.gz")
    assert not list(tmp_path.iterdir())
