"""Runs beside each other: read from their files alone, with what differs between them."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from html_pages import Page
from inputs import refused

from xpcnn.report import FinishedRun, comparison_report, comparison_text
from xpcnn.training import Checkpoint, RunConfig, write_history


def record(epoch, accuracy, part="test"):
    measured = {f"{part}_loss": 1 - accuracy, f"{part}_accuracy": accuracy}
    return {"epoch": epoch, "train_loss": 0.5, "train_accuracy": 0.5, "seconds": 30.0, "images_per_second": 100.0 * epoch} | measured  # fmt: skip # noqa: E501


def write_run(path, config, records, info=None):
    """Write the files of a run; `info` None for one that was killed before its first checkpoint."""
    path.mkdir()
    (path / "config.json").write_text(json.dumps(asdict(config)))
    if records:
        write_history(path / "history.jsonl", records)
    if info is not None:
        model = {"conv.weight": np.zeros((4, 3)), "bn.weight": np.zeros(4), "bn.running_mean": np.zeros(4)}
        state = {"steps": np.array(3), "mean.conv.weight": np.zeros((4, 3)), "square.bn.weight": np.zeros(4)}
        Checkpoint(model, state, {"config": asdict(config), **info}).save(path / "checkpoint.safetensors")
    return FinishedRun.read(path)


@pytest.fixture
def runs(tmp_path):
    usual = RunConfig(epochs=3)
    return [
        write_run(tmp_path / "a", usual, [record(1, 0.5), record(2, 0.9), record(3, 0.8)], {"test": {"accuracy": 0.8}}),
        write_run(
            tmp_path / "b <i>",
            replace(usual, epochs=9, lr=0.25, model="vgg"),
            [record(1, 0.7, "validation")],
            {"test": {"loss": 0.3, "accuracy": 0.6875}},
        ),
        write_run(tmp_path / "c", usual, []),
    ]


def test_the_table_and_the_options_that_differ(runs):
    first, a, b, c, empty, title, head, *options = comparison_text(runs).splitlines()
    words = first.split("  ")
    assert [word.strip() for word in words if word] == [
        "run", "model", "data", "epochs", "measured on", "accuracy", "best (epoch)", "loss", "test at end",
        "parameters", "time", "images/s",
    ]  # fmt: skip
    path = runs[0].name.removesuffix("a")
    assert a.removeprefix(path).split() == [
        "a", "lenet5", "mnist-mini", "3", "test", "80.00%", "90.00%", "(2)", "0.2000", "-", "16", "1", "min",
        "30", "s", "200",
    ]  # fmt: skip
    assert b.removeprefix(path).split() == [
        "b", "<i>", "vgg", "mnist-mini", "1", "of", "9", "validation", "70.00%", "70.00%", "(1)", "0.3000", "68.75%",
        "16", "30.0", "s", "100",
    ]  # fmt: skip
    assert c.removeprefix(path).split() == ["c", "lenet5", "mnist-mini", "0", "of", "3", *"--------"]
    assert (empty, title, head.split()) == ("", "options that differ:", ["run", "lr"])
    assert [line.split()[-1] for line in options] == ["-", "0.25", "-"]


def test_equal_options_and_columns_without_entries_are_left_out(runs):
    text = comparison_text(runs[:1])
    assert "options that differ" not in text
    assert "test at end" not in text


def test_the_page_draws_all_runs(runs):
    page = Page(comparison_report(runs))
    assert page.text.startswith("3 training runs")
    assert [row[0] for row in page.tables["Runs"]] == ["run", *(run.name for run in runs)]
    labels = [attributes["aria-label"] for tag, attributes in page.tags if tag == "svg" and "role" in attributes]
    assert [label.partition(" by ")[0] for label in labels] == [
        f"{part} {quantity}" for part in ("test", "validation", "training") for quantity in ("loss", "accuracy")
    ]
    assert f"{runs[1].name} from 70% to 70%" in labels[3]


def test_what_is_no_run_or_damaged_is_refused(tmp_path, runs):
    with refused("nowhere is not the folder of a run"):
        FinishedRun.read(tmp_path / "nowhere")
    (tmp_path / "a" / "history.jsonl").write_text("{}\n")
    with refused("history.jsonl, line 1: not a JSON record"):
        FinishedRun.read(tmp_path / "a")
    (tmp_path / "b <i>" / "checkpoint.safetensors").write_bytes(b"x" * 100)
    with refused("checkpoint.safetensors is damaged or not a checkpoint"):
        FinishedRun.read(tmp_path / "b <i>")
