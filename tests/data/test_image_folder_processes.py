"""Decoding in several processes: stopped, killed, crashed, and twice at the same time."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from picture_folders import fill

pytest.importorskip("PIL.Image", reason="reading pictures needs Pillow, of the viz extra")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder; caches are kept beside it."""
    monkeypatch.setenv("XPCNN_DATA", str(tmp_path / "data"))
    (tmp_path / "pictures").mkdir()
    return tmp_path / "pictures"


def caches(folder):
    return sorted((folder.parent / "data" / "folders").iterdir())


SCRIPT = """
from xpcnn import Dataset
from xpcnn.backend import CPU
from xpcnn.data.image_folder import build
CPU.threads, build._WORTHWHILE, build._BATCH = 2, 1e-9, 4
print(len(Dataset.from_folder({path!r}, skip_bad=True)[0]))
"""


WORKER = """
import os, sys, time
if sys.argv[0] == "-c":  # a process that decodes
    _open = os.open
    def slow_open(path, *options):
        if "deadly" in str(path):
            os._exit(9)
        time.sleep({seconds})
        return _open(path, *options)
    os.open = slow_open
"""


def run_script(folder):
    """Start a script without `if __name__ == "__main__"`, whose name processes of its own have in their command."""
    script = folder.parent / "script.py"
    script.write_text(SCRIPT.format(path=str(folder)))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder.parent), *sys.path])}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, script], env=environment, start_new_session=True, **pipes)


def processes_of(folder):
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
        except OSError:
            continue
        if str(folder.parent).encode() in command:
            found.append(int(path.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_stopped_decoding_leaves_no_process_and_no_harm(folder, number):
    fill(folder, 40)
    (folder.parent / "sitecustomize.py").write_text(WORKER.format(seconds=0.05))
    with run_script(folder) as script:
        while not [path for path in (folder.parent / "data").rglob("pixels") if path.stat().st_size]:
            time.sleep(0.01)
        assert len(processes_of(folder)) == 3
        os.kill(script.pid, number)
        assert script.wait(20) != 0
    end = time.monotonic() + 20
    while processes_of(folder) and time.monotonic() < end:
        time.sleep(0.01)
    assert not processes_of(folder)
    if number == signal.SIGINT:
        assert caches(folder) == []
    else:
        (folder.parent / "sitecustomize.py").unlink()
        with run_script(folder) as script:
            assert script.communicate()[0] == "71\n"
        assert [path.suffix for path in caches(folder)] == [".pixels"]  # what the killed one left is gone


def test_a_file_that_crashes_the_decoder_is_a_bad_file(folder):
    fill(folder)
    (folder / "dog/deadly.png").write_bytes(b"")
    (folder.parent / "sitecustomize.py").write_text(WORKER.format(seconds=0))
    with run_script(folder) as one, run_script(folder) as another:  # at the same time
        for script in (one, another):
            output, errors = script.communicate()
            assert "1 of 13 files cannot be read and are left out" in errors
            assert output == "10\n"
    assert len(caches(folder)) == 1
