"""Ctrl-C, SIGTERM and SIGHUP: the first saves and ends training, the second ends it at once."""

import os
import re
import signal
import sys

import pytest

from xpcnn.cli import main, train
from xpcnn.training import Checkpoint, ProgressBar, Run, Table, read_history
from xpcnn.training import checkpoint as checkpoint_module

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot send these signals to a process"),
    pytest.mark.usefixtures("few_images"),
]
SIGNALS = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129}


@pytest.fixture(autouse=True)
def not_ignored():
    """What `nohup` starts ignores SIGHUP; the tests may be run by it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def send(*names):
    for name in names:
        os.kill(os.getpid(), getattr(signal, name))


@pytest.fixture
def at_step(monkeypatch):
    """Calls a function after a step, in place of the progress bar's update."""

    def register(step, function):
        def on_step(bar, metrics):
            bar.steps = getattr(bar, "steps", 0) + 1
            if bar.steps == step:
                function()

        monkeypatch.setattr(ProgressBar, "on_step", on_step)

    return register


def run_train(folder, *options):
    options = ("--model", "lenet5", "--epochs", "3", "--output", str(folder), *options)
    return main(["train", "--device", "cpu", "--progress", *options])


def resume(folder):
    return main(["train", "--device", "cpu", "--resume", str(folder)])


def saved(folder):
    return Checkpoint.load(folder / "checkpoint.safetensors")


def history(folder):
    times = ("seconds", "images_per_second")
    return [{k: v for k, v in r.items() if k not in times} for r in read_history(folder / "history.jsonl")]


@pytest.mark.parametrize(("name", "code"), SIGNALS.items())
def test_a_signal_saves_the_run_which_resumes_with_the_same_bits(tmp_path, at_step, capsys, name, code):
    handler = signal.getsignal(getattr(signal, name))
    at_step(7, lambda: send(name))
    assert run_train(tmp_path / "run") == code
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "xpcnn: " in line]
    by = "" if name == "SIGINT" else f" by {name}"
    assert re.search(rf"xpcnn: interrupted{by}; the last good checkpoint .*step 7, 1 epochs complete.*--resume", line)
    assert saved(tmp_path / "run").info["progress"]["step"] == 7
    assert signal.getsignal(getattr(signal, name)) is handler

    at_step(0, None)
    assert resume(tmp_path / "run") == 0
    assert run_train(tmp_path / "whole") == 0
    assert history(tmp_path / "run") == history(tmp_path / "whole")
    whole = saved(tmp_path / "whole").model
    assert all((array == whole[name]).all() for name, array in saved(tmp_path / "run").model.items())


def test_a_second_signal_ends_training_at_once_with_the_checkpoint_before(tmp_path, at_step, capsys):
    at_step(7, lambda: send("SIGTERM", "SIGINT"))
    assert run_train(tmp_path / "run") == 143
    assert "step 5, 1 epochs complete" in capsys.readouterr().err
    assert saved(tmp_path / "run").info["progress"]["step"] == 5
    assert resume(tmp_path / "run") == 0


def test_a_second_signal_lets_a_checkpoint_be_finished(tmp_path, monkeypatch, capsys):
    write, calls = checkpoint_module.write_atomically, []

    def interrupted_write(path, data):
        calls.append(path)
        if len(calls) == 2:  # at the end of the first epoch
            send("SIGINT", "SIGINT", "SIGINT")
        write(path, data)

    monkeypatch.setattr(checkpoint_module, "write_atomically", interrupted_write)
    assert run_train(tmp_path / "run") == 130
    assert "step 5, 1 epochs complete" in capsys.readouterr().err
    assert saved(tmp_path / "run").info["progress"]["step"] == 5
    assert [record["epoch"] for record in history(tmp_path / "run")] == [1]


def test_a_signal_just_before_training_is_not_lost(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train, "_introduce", lambda run: send("SIGTERM"))
    assert run_train(tmp_path / "run") == 143
    assert "step 0, 0 epochs complete" in capsys.readouterr().err


def test_a_signal_while_data_are_loaded_leaves_nothing_behind(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Run, "__init__", lambda *args, **options: send("SIGHUP"))
    assert run_train(tmp_path / "run") == 129
    assert capsys.readouterr().err == "xpcnn: interrupted by SIGHUP; before training began\n"
    assert not list(tmp_path.iterdir())


def test_what_nohup_starts_ignores_the_end_of_its_terminal(tmp_path, at_step):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        at_step(7, lambda: send("SIGHUP"))
        assert run_train(tmp_path / "run") == 0
    finally:
        signal.signal(signal.SIGHUP, before)
    assert len(history(tmp_path / "run")) == 3


def test_training_outside_the_main_thread_leaves_signals_alone(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    handler = signal.getsignal(signal.SIGINT)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(run_train, tmp_path / "run", "--epochs", "1").result() == 0
    assert signal.getsignal(signal.SIGINT) is handler


def test_an_epoch_is_saved_before_it_is_printed(tmp_path, monkeypatch):
    def fail(table, record):
        raise ZeroDivisionError

    monkeypatch.setattr(Table, "on_epoch_end", fail)
    assert run_train(tmp_path / "run") == 3
    assert saved(tmp_path / "run").info["progress"]["epoch"] == len(history(tmp_path / "run")) == 1
