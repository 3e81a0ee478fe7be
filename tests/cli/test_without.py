"""What is said where a package is not installed, or no GPU answers: one line, or nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import xpcnn
from xpcnn.cli import main
from xpcnn.data import load_dataset, sources
from xpcnn.extras import needed_for
from xpcnn.models import build_model
from xpcnn.training import Checkpoint, RunConfig


@pytest.fixture
def model(tmp_path):
    state = build_model("lenet5", (1, 28, 28), 10, seed=0).state_dict()
    Checkpoint(state, info={"config": vars(RunConfig())}).save(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.fixture
def core_only(monkeypatch):
    """No package of an extra can be imported."""
    for name in ("PIL", "matplotlib", "sklearn"):
        for module in [module for module in sys.modules if module.partition(".")[0] == name]:
            monkeypatch.delitem(sys.modules, module)
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.usefixtures("core_only")
def test_training_ends_as_well(tmp_path, drawings, monkeypatch, capsys):
    monkeypatch.setattr(
        sources, "load_dataset", lambda name, split, *where: load_dataset(name, split).subset(slice(64))
    )
    assert main(["train", "--device", "cpu", "--epochs", "1", "--output", str(tmp_path / "run")]) == 0
    captured = capsys.readouterr()
    assert captured.out.endswith(f"saved in {tmp_path / 'run'}\n")
    needed = "drawing needs Matplotlib: python -m pip install matplotlib"
    assert captured.err == f"xpcnn: no pictures of the run: {needed}\n"


@pytest.mark.usefixtures("core_only")
@pytest.mark.parametrize(
    ("command", "needed"),
    [
        (
            ["predict", "MODEL", "x.png", "--device", "cpu"],
            "reading pictures needs Pillow: python -m pip install pillow",
        ),
        (
            ["train", "--data", "pictures", "--device", "cpu"],
            "reading pictures needs Pillow: python -m pip install pillow",
        ),
        (
            ["parity", "run", "--devices", "cpu,cpu", "--picture", "x.png"],
            "--picture needs Matplotlib: python -m pip install matplotlib",
        ),
        (["evaluate", "MODEL", "--device", "cpu"], None),
        (["parity", "run", "--devices", "cpu,cpu", "--steps", "1"], None),
        (["devices"], None),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_one_line_names_the_install_command(command, needed, model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png"):
        (tmp_path / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pictures" / name).write_text("")
    assert main([model if word == "MODEL" else word for word in command]) == (0 if needed is None else 2)
    assert capsys.readouterr().err == ("" if needed is None else f"xpcnn: error: {needed}\n")


def test_a_damaged_package_is_told_from_one_that_is_not_there():
    with pytest.raises(ImportError) as caught, needed_for("that"):
        raise ImportError("libjpeg.so.8:\ncannot open", name="PIL._imaging")
    assert str(caught.value) == "that needs Pillow: python -m pip install pillow (libjpeg.so.8: cannot open)"
    with pytest.raises(ImportError) as caught, needed_for("that"):
        raise ModuleNotFoundError("No module named 'kiwisolver'", name="kiwisolver")
    assert str(caught.value) == "that needs kiwisolver: python -m pip install kiwisolver"


@pytest.mark.parametrize(
    ("cupy", "device", "said"),
    [
        ("raise ModuleNotFoundError('No module named cupy', name='cupy')", "auto", ""),
        (
            "raise ImportError('libcuda.so.1: cannot open')",
            "auto",
            "xpcnn: warning: using the CPU: cuda:0 does not answer (CuPy cannot be imported: libcuda.so.1: cannot",
        ),
        ("raise ImportError('libcuda.so.1: cannot open')", "cpu", ""),
    ],
    ids=["not installed", "no GPU", "not asked for"],
)
def test_a_gpu_is_mentioned_once_and_only_if_something_is_wrong(cupy, device, said, model, tmp_path):
    (tmp_path / "cupy.py").write_text(cupy)
    code = f"""
from xpcnn.cli import main
for _ in range(2):
    assert main(["evaluate", {model!r}, "--device", {device!r}]) == 0
"""
    path = os.pathsep.join([str(tmp_path), str(Path(xpcnn.__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == bool(said)
    assert done.stdout.count("device cpu") == 2
    assert "GPU" not in done.stdout
