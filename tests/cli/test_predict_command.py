"""`xpcnn predict`: pictures and folders in, lines or a table out."""

import csv
import errno
import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from xpcnn.backend import CPU
from xpcnn.cli import main, pictures
from xpcnn.data import DataSpec, load_dataset, sources
from xpcnn.data.image_folder import build, decode, workers
from xpcnn.models import build_model
from xpcnn.training import Checkpoint, RunConfig, load_trained

Image = pytest.importorskip("PIL.Image", reason="predict reads pictures with Pillow, of the viz extra")

CLASSES = ('a, "b"', "=1+1\r\nx", "-2\n", "", "é\t", "path", "\udcff\nz")


@pytest.fixture
def model(tmp_path):
    return saved_model(tmp_path / "model")


def saved_model(path, **changes):
    spec = DataSpec(**({"shape": (1, 28, 28), "classes": CLASSES, "mean": (0.3,), "std": (0.2,)} | changes))
    state = build_model("lenet5", spec.shape, len(spec.classes), seed=0).state_dict()
    Checkpoint(state, info={"config": vars(RunConfig()), "data": spec.to_dict()}).save(path)
    return str(path)


@pytest.fixture
def folder(tmp_path):
    """Pictures in a folder and its subfolders, beside what is left out."""
    folder = tmp_path / "pictures"
    rng = np.random.default_rng(0)
    for name in ("b.png", "a/2.PNG", "a/deep/x.tif", "a/10.bmp", 'c, "d"/é.png', "a/.hidden.png", ".hidden/x.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (28, 28), np.uint8)).save(folder / name)
    (folder / "a" / "notes.txt").write_text("no picture")
    (folder / "a" / "again").symlink_to(folder)
    return folder


FOUND = ["a/10.bmp", "a/2.PNG", "a/deep/x.tif", "b.png", 'c, "d"/é.png']


def predict(*arguments):
    return main(["predict", *map(str, arguments), "--device", "cpu"])


def content(path):
    return path.read_bytes().decode("utf-8", "surrogateescape")


def table(text):
    return [*csv.reader(io.StringIO(text, newline=""), strict=True)]


def test_class_probability_and_what_was_done(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        sources, "load_dataset", lambda name, split, *where: load_dataset(name, split).subset(slice(640))
    )
    main(["train", "--device", "cpu", "--model", "lenet5", "--epochs", "6", "--output", str(tmp_path / "run")])
    digits = load_dataset("mnist-mini", "test")
    paths = []
    for i in range(20):
        page = Image.new("L", (300, 200), "white")
        ink = Image.fromarray(255 - digits.images[i, 0]).resize((112, 112))
        page.paste(ink, (150, 40))
        paths.append(tmp_path / f"{i}.{'png' if i % 2 else 'jpg'}")
        page.save(paths[-1])
    capsys.readouterr()
    assert predict(tmp_path / "run", *paths) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 20
    assert all("read 300×200 as grey; inverted" in line and "centred in 28×28" in line for line in lines)
    right = sum(
        line.startswith(f"{path}: {digits.labels[i]} (")
        for i, (path, line) in enumerate(zip(paths, lines, strict=True))
    )
    assert right >= 15  # a network that saw 640 images; chance is 2


def test_a_table_of_a_folder_and_files_survives_csv_reader(model, folder, tmp_path, capsys):
    out = tmp_path / "out.csv"
    out.write_text("old")
    (tmp_path / "link.csv").symlink_to(out)
    assert predict(model, folder, folder / "b.png", "--csv", tmp_path / "link.csv") == 0
    assert capsys.readouterr() == ("", "")
    heading, *rows = table(content(out))
    assert heading == ["path", "class", "probability", *CLASSES]
    paths = [*(str(folder / name) for name in FOUND), str(folder / "b.png")]
    assert [row[0] for row in rows] == paths
    images = np.stack([np.asarray(Image.open(path)) for path in paths])
    expected = load_trained(model, "cpu").predict(images)
    np.testing.assert_array_equal(np.array([row[3:] for row in rows], np.float32), expected)
    assert [row[1] for row in rows] == [CLASSES[i] for i in expected.argmax(1)]
    assert [np.float32(row[2]) for row in rows] == [*expected.max(1)]
    assert sorted(tmp_path.glob("*out*")) == [out]


def test_names_of_files_are_written_byte_by_byte(model, tmp_path):
    path = tmp_path / "é\udcff\r.png"
    try:
        Image.new("L", (28, 28)).save(path)
    except OSError:
        pytest.skip("this file system does not take such a name")
    assert predict(model, path, "--csv", tmp_path / "out.csv") == 0
    assert os.fsencode(path) in (tmp_path / "out.csv").read_bytes()


def test_a_table_on_stdout(model, folder, tmp_path, capsys):
    assert predict(model, folder, "--csv", tmp_path / "out.csv") == 0
    assert predict(model, folder, "--csv", "-") == 0
    text = capsys.readouterr().out
    assert text.replace("\\udcff", "\udcff") == content(tmp_path / "out.csv")  # stdout escapes what it cannot encode


@pytest.mark.parametrize("csv_file", ["out.csv", "-", None])
def test_a_bad_file_is_named_and_there_is_no_result_unless_it_may_be_left_out(
    csv_file, model, folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out.csv").write_text("old")
    table_option = [] if csv_file is None else ["--csv", csv_file]
    bad = [Path(folder.name, "a", f"{i}.png") for i in range(7)]
    for path in bad:
        path.write_text("no picture")
    before = sorted(tmp_path.iterdir())

    assert predict(model, folder.name, *table_option) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("xpcnn: error: 7 of 12 files cannot be read; --skip-bad leaves them out: ")
    assert [str(path) in captured.err for path in bad] == [True] * 5 + [False] * 2
    assert captured.err.endswith("; and 2 more\n")
    assert captured.err.count("\n") == 1
    assert len(table(captured.out)) == (1 if csv_file == "-" else 0)  # the heading
    assert (tmp_path / "out.csv").read_text() == "old"
    assert sorted(tmp_path.iterdir()) == before

    assert predict(model, folder.name, "--skip-bad", *table_option) == 0
    captured = capsys.readouterr()
    assert captured.err.startswith("xpcnn: warning: 7 of 12 files cannot be read and are left out: ")
    text = content(tmp_path / "out.csv") if csv_file == "out.csv" else captured.out
    assert [name for name in FOUND if name in text.replace('""', '"')] == FOUND
    assert not any(str(path) in text for path in bad)

    assert predict(model, *bad, "absent.png", "--skip-bad", *table_option) == 2  # nothing is left
    assert "xpcnn: error: 8 of 8 files cannot be read: " in capsys.readouterr().err
    assert predict(model, "absent.png", *table_option) == 2
    assert capsys.readouterr().err == "xpcnn: error: absent.png: no such file\n"


def test_pictures_are_read_classified_and_printed_in_batches(model, folder, monkeypatch, capsys):
    """So that memory is bounded, whatever their number."""
    printed_before_reading = []
    read = decode.read_image

    def spy(path, *arguments, **options):
        printed_before_reading.append(sys.stdout.getvalue().count("\n"))
        return read(path, *arguments, **options)

    monkeypatch.setattr(decode, "read_image", spy)
    monkeypatch.setattr(pictures, "_LOOKED_AT", 1)
    monkeypatch.setattr(build, "_BATCH", 2)
    assert predict(model, folder) == 0
    assert printed_before_reading == [0, 0, 0, 2, 2, 4]  # first one that is timed


def test_many_pictures_are_read_in_several_processes(model, folder, tmp_path, monkeypatch, capsys):
    (folder / "a" / "bad.png").write_text("no picture")
    assert predict(model, folder, "--skip-bad") == 0
    expected = capsys.readouterr()
    monkeypatch.setattr(build, "_BATCH", 2)
    monkeypatch.setattr(build, "_WORTHWHILE", 1e-9)
    monkeypatch.setattr(CPU, "threads", 2)
    started = []
    monkeypatch.setattr(
        pictures, "decode_all", lambda *arguments: started.append(arguments[-1]) or workers.decode_all(*arguments)
    )
    assert predict(model, folder, "--skip-bad") == 0
    assert capsys.readouterr() == expected
    assert started == [2]


@pytest.mark.parametrize(
    ("terminals", "many", "options", "shown"),
    [
        (["stderr"], True, ["--csv", "out.csv"], True),
        (["stderr"], False, ["--csv", "out.csv"], False),
        ([], True, ["--csv", "out.csv"], False),
        ([], False, ["--csv", "out.csv", "--progress"], True),
        (["stderr"], True, [], True),
        (["stderr", "stdout"], True, [], False),  # lines on the same terminal
        (["stderr", "stdout"], True, ["--csv", "-"], False),
    ],
)
def test_a_progress_bar_for_many_pictures_on_a_terminal(
    terminals, many, options, shown, model, folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("xpcnn.cli.predict._MANY", 5 if many else 6)
    for name in terminals:
        monkeypatch.setattr(getattr(sys, name), "isatty", lambda: True)
    assert predict(model, folder, *options) == 0
    assert ("5/5" in capsys.readouterr().err) == shown


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pictures", "it is a folder"),
        ("none/out.csv", "there is no folder none"),
        ("pictures/b.PNG", "expected the name of a table, not of a picture"),
        (os.devnull, "it is not a regular file"),
    ],
)
def test_a_table_that_cannot_be_written_is_refused_before_any_work(
    name, message, folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert predict("no run", folder, "--csv", name) == 2
    assert capsys.readouterr().err == f"xpcnn: error: --csv {name}: {message}\n"


def test_a_full_disk_leaves_the_old_table(model, folder, tmp_path, monkeypatch, capsys):
    def fail(number):
        raise OSError(errno.ENOSPC, "No space left on device")

    out = tmp_path / "out.csv"
    out.write_text("old")
    monkeypatch.setattr("os.fsync", fail)
    assert predict(model, folder, "--csv", out) == 3
    assert f"No space left on device: '{out}'" in capsys.readouterr().err
    assert out.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out.csv", "pictures"]


@pytest.mark.parametrize("changes", [{"pixels": "float"}, {"shape": (2, 28, 28), "mean": (0, 0), "std": (1, 1)}])
def test_a_network_that_takes_no_pictures_says_so(changes, folder, tmp_path, capsys):
    assert predict(saved_model(tmp_path / "other", **changes), folder) == 2
    assert "which no picture has" in capsys.readouterr().err


def test_a_folder_without_pictures(model, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert predict(model, tmp_path / "empty") == 2
    assert capsys.readouterr().err.startswith(f"xpcnn: error: {tmp_path / 'empty'}: no pictures (.bmp, .gif, ")
