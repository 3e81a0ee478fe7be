"""A full disk: what is said, what stays, and what goes on."""

import errno
import os
import sys
from pathlib import Path

import pytest
from helpers import load_script

from xpcnn.cli import main
from xpcnn.training import Checkpoint, Run, read_history
from xpcnn.training.files import write_atomically

kill_check = load_script("kill_check")
VALIDATION = ["--validation", "0.2"]
FILES = {"checkpoint.safetensors", "config.json", "history.jsonl", ".lock"}
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot flush folders, nor limit file sizes")


@pytest.fixture
def full(monkeypatch):
    """Makes the disk full at these flushes of a file, counted from 1."""

    flush = os.fsync

    def fill(numbers):
        flushes = []

        def fsync(number):
            flushes.append(number)
            if len(flushes) in numbers:
                raise OSError(errno.ENOSPC, "No space left on device")
            flush(number)

        monkeypatch.setattr(os, "fsync", fsync)

    return fill


def run_train(folder, *options):
    return main(["train", "--device", "cpu", "--model", "lenet5", "--epochs", "3", "--output", str(folder), *options])


# A file takes two flushes, its own and its folder's: config.json, then a checkpoint and a history in turn.
@pytest.mark.parametrize(
    ("flush", "name", "last"),
    [
        (1, "config.json", "there is no checkpoint yet"),
        (3, "checkpoint.safetensors", "there is no checkpoint yet"),
        (5, "history.jsonl", "step 0, 0 epochs complete"),
        (11, "checkpoint.safetensors", "step 5, 1 epochs complete"),
        (9, "best.safetensors", "step 4, 1 epochs complete"),
    ],
)
def test_a_full_disk_ends_training_with_the_last_checkpoint(tmp_path, few_images, full, capsys, flush, name, last):
    folder = tmp_path / "run"
    full(range(flush, 1000))
    assert run_train(folder, *(VALIDATION if name == "best.safetensors" else [])) == 3
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith(f"xpcnn: error: {folder / name} cannot be written: No space left on device; ")
    assert last in error
    assert {path.name for path in folder.iterdir()} <= FILES

    full(())
    again = ["--output"] if name == "config.json" else ["--resume"]
    assert (
        main(
            ["train", "--device", "cpu", *again, str(folder)]
            + (["--model", "lenet5", "--epochs", "3"] if flush == 1 else [])
        )
        == 0
    )
    assert [record["epoch"] for record in read_history(folder / "history.jsonl")] == [1, 2, 3]


def test_training_continues_if_asked_to_and_saves_when_there_is_room_again(tmp_path, few_images, full, capsys):
    folder = tmp_path / "run"
    full(range(7, 9))  # the checkpoint of the first epoch, and that of the second
    assert run_train(folder, "--on-save-error", "continue") == 0
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 2
    for warning in warnings:
        assert "checkpoint.safetensors cannot be written: No space left on device; the last good checkpoint" in warning
        assert warning.endswith("(step 0, 0 epochs complete); training continues")
    assert len(Checkpoint.load(folder / "checkpoint.safetensors").info["records"]) == 3
    assert len(read_history(folder / "history.jsonl")) == 3


def test_best_weights_are_written_once_and_again_when_there_is_room(tmp_path, few_images, full, monkeypatch, capsys):
    folder, written, write = tmp_path / "run", [], Run._write

    def noted(run, name, function):
        written.append(name.partition(".")[0])
        write(run, name, function)

    monkeypatch.setattr(Run, "_write", noted)
    full([9])  # the best weights of the first epoch
    # With a rate of 0 no epoch is better than the first.
    assert run_train(folder, "--on-save-error", "continue", *VALIDATION, "--lr", "0", "--weight-decay", "0") == 0
    (warning,) = capsys.readouterr().err.splitlines()
    assert f"{folder}/best.safetensors cannot be written: No space left on device; the last good checkpoint" in warning
    saves = " ".join(written).split("checkpoint ")
    expected = ["config", "history", "best", "best history", "history", "best history"]  # the last has the test figures
    assert [save.strip() for save in saves] == expected
    assert Checkpoint.load(folder / "best.safetensors").info["record"]["epoch"] == 1


def test_a_limit_on_file_sizes(tmp_path):
    """The checkpoint with the optimizer's state is larger than the one at the start."""
    import resource

    folder = tmp_path / "run"
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (300 << 10, 300 << 10))  # noqa: E731
    options = ["--model", "lenet5", "--output", str(folder), "--epochs", "1", "--on-save-error", "continue"]
    process = kill_check.start("train", "--device", "cpu", *options, preexec_fn=limit)
    _, errors = process.communicate()
    warning, error = errors.splitlines()
    assert process.returncode == 3
    assert warning.startswith(f"xpcnn: warning: {folder}/checkpoint.safetensors cannot be written: File too large")
    assert error.startswith(f"xpcnn: error: {folder}/checkpoint.safetensors cannot be written: File too large")
    assert Checkpoint.load(folder / "checkpoint.safetensors").info["progress"]["step"] == 0
    assert {path.name for path in folder.iterdir()} == FILES


def test_a_trace_on_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch, capsys):
    def fail(path, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", fail)
    assert main(["parity", "record", "--steps", "2", "--output", str(tmp_path / "new" / "trace")]) == 3
    assert str(tmp_path / "new" / "trace") in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """After a power failure, the name is that of the old content or of all the new one."""
    events, fsync, replace = [], os.fsync, Path.replace

    def note(event, function):
        def noted(*args):
            events.append(event)
            return function(*args)

        return noted

    monkeypatch.setattr(os, "fsync", note("flush", fsync))
    monkeypatch.setattr(Path, "replace", note("rename", replace))
    write_atomically(tmp_path / "file", b"content")
    assert events == ["flush", "rename", "flush"]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
