"""File names with line ends, escapes of terminals and bytes that are no text: one line each, and nothing for a terminal
to obey."""

import numpy as np
import pytest

from xpcnn.cli import main

ODD = "a\nb\x1b[31m\udcff.png"
SHOWN = r"a\nb\x1b[31m\udcff.png"


def test_predict_prints_odd_names_escaped(model, tmp_path, capsys):
    Image = pytest.importorskip("PIL.Image", reason="predict reads pictures with Pillow, of the viz extra")
    try:
        Image.fromarray(np.zeros((28, 28), np.uint8)).save(tmp_path / ODD)
    except OSError:
        pytest.skip("this file system does not take such a name")
    assert main(["predict", model, str(tmp_path / ODD), "--device", "cpu"]) == 0
    assert SHOWN in capsys.readouterr().out
    assert main(["predict", model, f"absent{ODD}", "--device", "cpu"]) == 2
    assert capsys.readouterr().err == f"xpcnn: error: absent{SHOWN}: no such file\n"


def test_a_damaged_tiff_is_one_line_whatever_libtiff_says(model, tmp_path, capfd):
    Image = pytest.importorskip("PIL.Image", reason="predict reads pictures with Pillow, of the viz extra")
    path = tmp_path / "x.tif"
    Image.fromarray(np.eye(50, dtype=np.uint8)).save(path, compression="tiff_lzw")
    path.write_bytes(path.read_bytes().replace(b"\x80", b"\xff"))
    assert main(["predict", model, str(path), "--device", "cpu"]) == 2
    errors = capfd.readouterr().err
    assert errors.startswith(f"xpcnn: error: {path}: cannot be read as a picture (")
    assert errors.count("\n") == 1


@pytest.mark.parametrize("command", [["evaluate"], ["predict", "no run"], ["train", "--resume"], ["parity", "check"]])
def test_errors_print_odd_names_escaped(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = [ODD] if command[-1] != "no run" else ["x.png"]
    command = [part.replace("no run", ODD) for part in command]
    assert main([*command, *run]) == 2
    error = capsys.readouterr().err
    assert SHOWN in error
    assert error.count("\n") == 1


def test_refused_arguments_are_printed_escaped(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["devices", ODD])
    assert capsys.readouterr().err == f"xpcnn: error: unrecognized arguments: {SHOWN}\n"
