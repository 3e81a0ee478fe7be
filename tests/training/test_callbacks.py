"""Callbacks work without a trainer: they are told plain values."""

import io

import numpy as np
import pytest

from xpcnn.training import History, Metrics, ProgressBar, Table, read_history

RECORD = {"epoch": 1, "train_loss": 0.5, "train_accuracy": 0.875, "images_per_second": 1234.5, "seconds": 2.0}


def test_history_appends_and_is_read_back(tmp_path):
    path = tmp_path / "history.jsonl"
    History(path).on_epoch_end(RECORD)
    again = History(path)
    again.on_epoch_end(RECORD | {"epoch": 2})
    assert again.records == read_history(path) == [RECORD, RECORD | {"epoch": 2}]


@pytest.mark.parametrize("line", ["{", "3"])
def test_a_damaged_history_is_refused(tmp_path, line):
    path = tmp_path / "history.jsonl"
    path.write_text('{"epoch": 1}\n' + line + "\n")
    with pytest.raises(ValueError, match="line 2"):
        read_history(path)


def test_table_aligns_its_columns():
    stream = io.StringIO()
    table = Table(stream)
    table.on_epoch_end(RECORD)
    table.on_epoch_end(RECORD | {"epoch": 2, "test_loss": 0.25, "test_accuracy": 0.9875})
    heading, first, second = stream.getvalue().splitlines()
    assert len(heading) == len(first) == len(second)
    assert "87.50%" in first
    assert "98.75%" in second
    assert "1,234" in second
    assert heading.index("test accuracy") + len("test accuracy") == second.index("98.75%") + len("98.75%")


def test_progress_bar_shows_loss_accuracy_rate_and_time(capsys):
    bar = ProgressBar(interval=0)
    bar.on_epoch_start(2, 5, batches=3)
    metrics = Metrics()
    for _ in range(3):
        metrics.update(np.float32(0.75), np.eye(4), np.arange(4))
        bar.on_step(metrics)
    bar.on_epoch_end({})
    shown = capsys.readouterr().err
    assert "epoch 2/5" in shown
    assert "loss 0.7500, accuracy 100.00%" in shown
    assert "images/s" in shown
    assert "<" in shown  # tqdm's time left


def test_progress_bar_looks_at_the_loss_only_now_and_then(capsys):
    class Watched(Metrics):
        looks = 0

        def read(self):
            Watched.looks += 1
            super().read()

    bar = ProgressBar(interval=3600)
    bar.on_epoch_start(1, 1, batches=50)
    metrics = Watched()
    for _ in range(50):
        metrics.update(np.float32(0.75), np.eye(4), np.arange(4))
        bar.on_step(metrics)
    bar.on_stop()
    assert Watched.looks <= 2  # loss and accuracy, once
