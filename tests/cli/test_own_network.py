"""`--model FILE:FUNCTION`: trained, resumed, measured and compared, and never run unless the user names it again."""

import json

import pytest
from helpers import read_few

from xpcnn.cli import main

NET = """
from pathlib import Path
from xpcnn import nn
from xpcnn.random import stream

with Path(__file__).with_name("runs.txt").open("a") as file:
    file.write("x")

def net(in_shape, num_classes, *, seed=0):
    C, H, W = in_shape
    rng = stream(seed, "init")
    last = nn.Linear(128, num_classes, rng=rng)
    return nn.Sequential(conv=nn.Conv2d(C, 2, 5, stride=3, rng=rng), flat=nn.Flatten(), fc=last)

other = net
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    read_few(monkeypatch, 200)
    return tmp_path


def runs(folder):
    file = folder / "runs.txt"
    return len(file.read_text()) if file.exists() else 0


def test_a_run_of_a_network_of_ones_own(folder, capsys):
    assert main(["train", "--model", "net.py:net", "--epochs", "1", "--device", "cpu", "--augment", "none"]) == 0
    (run,) = (folder / "runs").iterdir()
    assert run.name == "net-mnist-mini-1"
    config = json.loads((run / "config.json").read_text())
    assert config["model"] == f"{folder / 'net.py'}:net"
    before = runs(folder)
    for command in (["train", "--resume", str(run)], ["evaluate", str(run)], ["predict", str(run), "x.png"]):
        assert main([*command, "--device", "cpu"]) == 2
        assert "are not run on their own: give it again by --model" in capsys.readouterr().err
    assert runs(folder) == before
    assert main(["train", "--resume", str(run), "--model", "net.py:net", "--device", "cpu"]) == 0
    assert main(["evaluate", str(run), "--model", "net.py:net", "--device", "cpu"]) == 0
    assert capsys.readouterr().err == ""
    assert main(["evaluate", str(run), "--model", "net.py:other", "--device", "cpu"]) == 0
    assert "xpcnn: warning: the function other is not the one that was trained, net\n" in capsys.readouterr().err
    (folder / "net.py").write_text(NET + "# changed\n")
    assert main(["evaluate", str(run), "--model", "net.py:net", "--device", "cpu"]) == 0
    captured = capsys.readouterr()
    assert captured.err.endswith("net.py:net is not the file that was trained: its SHA-256 differs\n")
    assert "accuracy" in captured.out
    assert main(["evaluate", str(run), "--model", "none.py:net"]) == 2
    assert "none.py cannot be read" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["evaluate", str(run), "--model", "lenet5"])
    assert "expected path/to/file.py:function" in capsys.readouterr().err


def test_a_network_of_ones_own_on_two_devices(folder, capsys):
    few = ["--model", "net.py:net", "--steps", "2", "--batch-size", "8"]
    assert main(["parity", "record", *few, "--output", "trace"]) == 0
    before = runs(folder)
    assert main(["parity", "check", "trace", "--device", "cpu"]) == 2
    assert "are not run on their own: give it again by --model" in capsys.readouterr().err
    assert runs(folder) == before
    assert main(["parity", "check", "trace", "--device", "cpu", "--model", "net.py:net"]) == 0
    assert "AGREE" in capsys.readouterr().out
    assert main(["parity", "run", *few, "--devices", "cpu,cpu"]) == 0


def test_a_network_that_does_not_fit_the_run_is_refused(folder, capsys):
    assert main(["train", "--model", "lenet5", "--epochs", "1", "--device", "cpu", "--output", "run"]) == 0
    assert main(["evaluate", "run", "--model", "net.py:net", "--device", "cpu"]) == 2
    assert "its network is lenet5, not one of a file such as" in capsys.readouterr().err
