"""Output that cannot be written or encoded never ends training, and never goes where it does not belong."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import load_script

from xpcnn.cli import main
from xpcnn.training import Checkpoint, Table, read_history
from xpcnn.training.streams import TolerantStream

kill_check = load_script("kill_check")  # starts `xpcnn` on a few images
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a shell closes and redirects the streams")


def shell(redirection, *arguments):
    """Run `xpcnn` in a shell, with its streams redirected."""
    command = [sys.executable, str(Path(kill_check.__file__).resolve()), "--child", "0", *map(str, arguments)]
    script = ["bash", "-c", f'"$@" {redirection}', "bash", *command]
    # Python buffers its output, if it is no terminal, and writes the rest when it exits.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(script, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("redirection", "errors"),
    [
        ("| head -1; exit ${PIPESTATUS[0]}", ""),
        (">&-", ""),
        (">&- 2>&- <&-", ""),
        pytest.param(
            ">/dev/full",
            "xpcnn: warning: stdout cannot be written: No space left on device\n",
            marks=pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full"),
        ),
    ],
)
def test_training_ends_well_whatever_happens_to_its_output(tmp_path, redirection, errors):
    folder = tmp_path / "run"
    done = shell(redirection, "train", "--device", "cpu", "--model", "lenet5", "--epochs", "2", "--output", folder)
    assert (done.returncode, done.stderr) == (0, errors)
    assert len(read_history(folder / "history.jsonl")) == 2
    assert len(Checkpoint.load(folder / "checkpoint.safetensors").info["records"]) == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_report_that_is_lost_is_a_failure():
    done = shell(">/dev/full", "devices")
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    assert "stdout cannot be written" in done.stderr


def test_files_do_not_get_the_number_of_a_closed_stream(tmp_path):
    """Else what C libraries print to stdout or stderr would go into them."""
    code = """
import sys
from xpcnn.cli import devices, main
def open_a_file():
    with open(sys.argv[1], "w") as file:
        file.write(str(file.fileno()))
    return [], ""
devices.available_devices = open_a_file
main(["devices"])
"""
    command = [sys.executable, "-c", code, str(tmp_path / "file")]
    subprocess.run(["bash", "-c", '"$@" <&- >&- 2>&-', "bash", *command], check=True)
    assert int((tmp_path / "file").read_text()) > 2


class Broken(io.StringIO):
    """A stream behind which nobody reads."""

    def write(self, text):
        raise BrokenPipeError

    def flush(self):
        raise BrokenPipeError


@pytest.mark.parametrize("stream", [Broken(), None], ids=["broken", "closed"])
def test_the_table_is_dropped_where_it_cannot_be_written(stream, monkeypatch):
    monkeypatch.setattr(sys, "stdout", stream)
    Table().on_epoch_end({"epoch": 1, "train_loss": 0.5, "images_per_second": 1.0, "seconds": 1.0})


def test_characters_that_cannot_be_encoded_are_escaped():
    for encoding, expected in (
        ("ascii", r"\xe9 \u2603 \udcff"),
        ("latin-1", r"é \u2603 \udcff"),
        ("utf-8", r"é ☃ \udcff"),
    ):
        buffer = io.BytesIO()
        stream = TolerantStream(io.TextIOWrapper(buffer, encoding=encoding))
        print("é ☃ \udcff", file=stream, flush=True)  # the last is how Python reads a byte of an odd file name
        assert buffer.getvalue().decode(encoding) == expected + "\n"
        assert stream.error is None


def test_ctrl_c_while_modules_are_imported_is_one_line():
    code = """
import runpy, sys
class Interrupt:
    def find_spec(self, name, *rest):
        if name == "numpy":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupt())
sys.argv = ["xpcnn", "devices"]
runpy.run_module("xpcnn", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ)
    assert (done.returncode, done.stderr) == (130, "xpcnn: interrupted\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--epochs=--"], "argument --epochs: expected one argument"),
        (["--epochs", "1" + 400 * "0"], "epochs must be below 2**63, got a number of 401 digits"),
        (["--epochs", 5000 * "9"], "invalid int value: '999"),
        (["--batch-size", "1" + 400 * "0"], "batch_size must be below 2**63"),
        (["--seed", "1" + 400 * "0"], "seed must be below 2**63"),
        (["--lr", "1" + 400 * "0"], "lr must be a finite number, got inf"),
        (["--threads", "1000000"], "threads must be at most 1024"),
        (["--threads", "1" + 400 * "0"], "threads must be at most 1024"),
        (["--checkpoint-minutes", "1" + 400 * "0"], "minutes between checkpoints of at least 0, got inf"),
        (["--checkpoint-minutes", "-1"], "minutes between checkpoints of at least 0, got -1"),
        (["--device", "cuda:²"], "unknown device 'cuda:²'"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_odd_arguments_are_refused_in_one_short_line(tmp_path, capsys, options, message):
    try:
        code = main(["train", *options, "--output", str(tmp_path / "run")])
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    assert code == 2
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert len(captured.err) < 1000
    assert not list(tmp_path.iterdir())
