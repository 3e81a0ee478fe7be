"""The parity commands, as their user types them."""

import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
from html_pages import Page
from other_order import other_order
from strict_xp import DEVICE

import xpcnn
from xpcnn import backend
from xpcnn.backend import CPU
from xpcnn.cli import main

FEW = ["--steps", "3", "--batch-size", "8"]


@pytest.fixture
def strict_by_name(monkeypatch):
    """Lets `--device strict` name the make-believe device."""
    find = backend.device
    monkeypatch.setattr(backend, "device", lambda name="auto": DEVICE if name == "strict" else find(name))
    with other_order():
        yield


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "trace"
    assert main(["parity", "record", "--model", "lenet5", "--data", "mnist-mini", *FEW, "--output", str(path)]) == 0
    return path


def test_record_says_what_it_kept_and_what_to_do_next(tmp_path, capsys):
    path = tmp_path / "trace"
    assert main(["parity", "record", *FEW, "--output", str(path), "--limit", "1"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        rf"recorded 3 steps of lenet5 on mnist-mini \(cpu\) in {path}: every array of [01] steps, \d+\.\d MB", first
    )
    assert second == f"on another machine: xpcnn parity check {path} --device cuda"


def test_check_prints_tables_and_a_verdict(trace, strict_by_name, tmp_path, capsys):
    picture, report = tmp_path / "growth.png", tmp_path / "report.html"
    files = ["--picture", str(picture), "--report", str(report)]
    assert main(["parity", "check", str(trace), "--device", "strict", *files]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "lenet5 on mnist-mini, 3 steps of 8 images, float32"
    assert lines[4].split() == [
        "layer",
        "pass",
        "array",
        "largest",
        "error",
        "relative",
        "tolerance",
        "step",
        "verdict",
    ]
    assert [line.split()[:2] for line in lines if line.startswith("conv1 ")] == [
        ["conv1", "forward"],
        ["conv1", "backward"],
        ["conv1", "update"],
    ]
    assert [line.split()[-1] for line in lines if re.match(" +[123] ", line)] == ["agrees"] * 3
    assert lines[-1] == "AGREE: strict and cpu, 13 layers, 3 steps (every array of 3 of them)"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "Do cpu and strict compute the same?" in Page(report.read_text()).text


def test_mixed_precision_is_recorded_and_checked(strict_by_name, capsys):
    assert main(["parity", "run", *FEW, "--devices", "cpu,strict", "--precision", "mixed"]) == 0
    assert ", mixed\n" in capsys.readouterr().out


def test_json_is_all_that_is_printed(trace, capsys):
    assert main(["parity", "check", str(trace), "--device", "cpu", "--json"]) == 0
    (report,) = json.loads(capsys.readouterr().out)
    assert report["agrees"] is True
    assert report["recorded"]["device"] == report["here"]["device"] == "cpu"
    assert {row["layer"] for row in report["layers"]} >= {"conv1", "fc3", "loss"}
    assert [loss["step"] for loss in report["losses"]] == [1, 2, 3]


def test_run_differs_with_exit_code_1(strict_by_name, monkeypatch, capsys):
    from xpcnn.nn import Conv2d

    forward = Conv2d.forward
    monkeypatch.setattr(
        Conv2d, "forward", lambda layer, x: forward(layer, x) * (1 if backend.device_of(x) is CPU else 1.001)
    )
    assert main(["parity", "run", *FEW, "--devices", "cpu,strict"]) == 1
    out = capsys.readouterr().out
    assert out.splitlines()[-1].startswith(
        "DIFFER: strict and cpu, first in step 1, layer conv1 (Conv2d), forward: y is off by"
    )
    assert re.search(r"^conv1 +forward .* DIFFERS$", out, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "nowhere", "--device", "cpu"], "nowhere is no trace: trace.json cannot be read"),
        (["check", "TRACE", "--device", "cuda:99"], "cuda:99"),
        (["check", "TRACE", "--device", "tpu"], "unknown device 'tpu'"),
        (["check", "TRACE", "--device", "cpu", "--precision", "tf32"], "TF32 was asked for, but cpu does not have it"),
        (["run", *FEW, "--devices", "cpu,cpu", "--precision", "tf32"], "TF32 was asked for, but cpu does not have it"),
        (["record", *FEW, "--output", "x", "--precision", "tf32"], "a trace is recorded in float32 or mixed precision"),
        (["run", *FEW, "--devices", "cpu"], "at least two devices, got cpu"),
        (["run", *FEW, "--devices", ""], "at least two devices, got none"),
        (["run", *FEW, "--devices", "cpu,cuda:99"], "cuda:99"),
        (["run", "--model", "alexnet", "--devices", "cpu,cpu"], "unknown model 'alexnet'"),
        (["run", "--steps", "0", "--devices", "cpu,cpu"], "at least 1 step, got 0"),
        (["record", "--output", "TRACE"], "exists already"),
        (["record"], "--output"),
        (["run", "--steps", "x"], "invalid int value"),
        (["record", "--output", "NEW", "--limit", "-1"], "--limit must be at least 0, got -1"),
        (["record", "--output", "NEW", "--lr", "nan"], "lr must be a finite number, got nan"),
        (["record", "--output", "NEW", "--weight-decay", "-1"], "weight_decay must be at least 0, got -1"),
        (["record", "--output", "NEW", "--steps", "2", "--lr", "1e30"], "the loss became"),
        (["check", "TRACE", "--picture", "missing/x.png"], "--picture missing/x.png: there is no folder missing"),
        (["check", "TRACE", "--picture", "x.xyz"], "--picture x.xyz: expected a name that ends in .eps"),
        (["check", "TRACE", "--picture", "."], "--picture .: it is a folder"),
        (["run", *FEW, "--devices", "cpu,cpu", "--picture", "missing/x.png"], "there is no folder missing"),
        (["check", "TRACE", "--report", "missing/x.html"], "--report missing/x.html: there is no folder missing"),
        (["run", *FEW, "--devices", "cpu,cpu", "--report", "."], "--report .: it is a folder"),
    ],
    ids=str,
)
def test_what_could_not_run_is_said_in_one_line(trace, arguments, message, tmp_path, capsys):
    names = {"TRACE": str(trace), "NEW": str(tmp_path / "new" / "trace")}
    arguments = [names.get(argument, argument) for argument in arguments]
    try:
        code = main(["parity", *arguments])
    except SystemExit as exit:  # argparse's way out
        code = exit.code
    captured = capsys.readouterr()
    assert code == 2
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64") or not any("openblas" in lib.prefix for lib in CPU._workers._blas),
    reason="another processor can be played only where OpenBLAS has kernels for several",
)
def test_another_processor_agrees(trace):
    """OpenBLAS with an older processor's kernels sums in another order: in effect, another machine."""
    environment = os.environ | {"OPENBLAS_CORETYPE": "Sandybridge", "PYTHONPATH": str(Path(xpcnn.__file__).parents[1])}
    command = [sys.executable, "-m", "xpcnn", "parity", "check", str(trace), "--device", "cpu", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (report,) = json.loads(done.stdout)
    assert any(row["absolute"] > 0 for row in report["layers"])
