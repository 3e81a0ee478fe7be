"""Reports as the command line writes them: after training, and of several runs."""

import errno
import sys

import pytest
from helpers import read_few
from html_pages import Page

from xpcnn.cli import main
from xpcnn.training import Checkpoint, read_history


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    read_few(monkeypatch, 128, 100)


def train(folder, *options):
    return main(["train", "--device", "cpu", "--model", "lenet5", "--epochs", "1", "--output", str(folder), *options])


def test_a_run_ends_with_its_report_even_without_the_extra(tmp_path, drawings, monkeypatch, capsys):
    for name in ("matplotlib", "matplotlib.figure", "PIL"):
        monkeypatch.setitem(sys.modules, name, None)
    folder = tmp_path / "run"
    assert train(folder) == 0
    captured = capsys.readouterr()
    assert captured.err == "xpcnn: no pictures of the run: drawing needs Matplotlib: python -m pip install matplotlib\n"
    assert f"report in {folder / 'report.html'}\n" in captured.out
    page = Page((folder / "report.html").read_text())
    (record,) = read_history(folder / "history.jsonl")
    assert f"{record['test_accuracy']:.2%} of 100 test images classified correctly" in page.text
    assert f"cross-entropy {record['test_loss']:.4f}" in page.text
    assert page.text.startswith("lenet5 on mnist-mini")

    (folder / "report.html").unlink()
    assert main(["train", "--device", "cpu", "--resume", str(folder)]) == 0
    assert (folder / "report.html").exists()


def test_with_validation_the_report_is_of_the_best_weights(tmp_path):
    folder = tmp_path / "run"
    assert train(folder, "--epochs", "2", "--validation", "0.5") == 0
    page = Page((folder / "report.html").read_text())
    test = Checkpoint.load(folder / "checkpoint.safetensors").info["test"]
    assert f"{test['accuracy']:.2%} of 100 test images classified correctly" in page.text
    assert f"weights of epoch {test['epoch']:.0f}, the best on the validation images" in page.text
    assert "validation loss" in page.tables["Each epoch"][0]


def test_a_report_that_cannot_be_written_is_a_warning(tmp_path, monkeypatch, capsys):
    def fail(path, text):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("xpcnn.report.run.write_page", fail)
    assert train(tmp_path / "run") == 0
    file = tmp_path / "run" / "report.html"
    assert f"xpcnn: warning: {file} cannot be written: No space left on device\n" in capsys.readouterr().err


def test_compare_prints_a_table_and_draws_a_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert train("a") == 0
    assert train("b", "--lr", "0.5") == 0
    capsys.readouterr()
    assert main(["compare", "a", "b"]) == 0
    captured = capsys.readouterr()
    head, a, b, _, title, options, *values = captured.out.splitlines()
    assert head.split()[0] == "run"
    assert a.split()[:5] == ["a", "lenet5", "mnist-mini", "1", "test"]
    assert "61,706" in a
    assert b.split()[0] == "b"
    assert (title, options.split()) == ("options that differ:", ["run", "lr"])
    assert [line.split() for line in values] == [["a", "-"], ["b", "0.5"]]
    assert captured.err == "curves in compare.html\n"
    assert Page((tmp_path / "compare.html").read_text()).text.startswith("2 training runs")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: RUN"),
        (["nowhere"], "nowhere is not the folder of a run"),
        (["run"], "config.json is damaged"),
        (["run", "--output", "."], "--output .: it is a folder"),
        (["run", "--output", "missing/x.html"], "--output missing/x.html: there is no folder missing"),
    ],
    ids=" ".join,
)
def test_bad_input_is_one_line_and_writes_nothing(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"model": "lenet5"}')
    (tmp_path / "file").write_text("")
    before = sorted(tmp_path.rglob("*"))
    try:
        code = main(["compare", *arguments])
    except SystemExit as stop:  # argparse's way out
        code = stop.code
    captured = capsys.readouterr()
    assert code == 2
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not captured.out
    assert sorted(tmp_path.rglob("*")) == before
