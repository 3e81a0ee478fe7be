"""Callbacks work without a trainer: they are told plain values."""

import io

import numpy as np
import pytest

from xpcnn.training import Checkpointer, History, Metrics, ProgressBar, Table, callbacks, read_history

RECORD = {"epoch": 1, "train_loss": 0.5, "train_accuracy": 0.875, "images_per_second": 1234.5, "seconds": 2.0}


def test_history_appends_and_is_read_back(tmp_path):
    path = tmp_path / "history.jsonl"
    History(path).on_epoch_end(RECORD)
    again = History(path)
    again.on_epoch_end(RECORD | {"epoch": 2})
    assert again.records == read_history(path) == [RECORD, RECORD | {"epoch": 2}]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("{", "not a JSON record"),
        ("3", 'expected a JSON object with "epoch", got 3'),
        ('{"step": 1}', 'expected a JSON object with "epoch"'),
        ('{"epoch": 2, "train_loss": "0.5"}', "expected train_loss to be a number, got '0.5'"),
        ('{"epoch": true}', "expected epoch to be a number, got True"),
        ("[" * 100_000, "not a JSON record"),
    ],
    ids=lambda value: value[:20],
)
def test_a_damaged_history_is_refused(tmp_path, line, fault):
    path = tmp_path / "history.jsonl"
    path.write_text('{"epoch": 1}\n' + line + "\n")
    with pytest.raises(ValueError, match=fault) as caught:
        read_history(path)
    assert str(caught.value).startswith(f"{path}, line 2: ")


def test_a_history_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "history.jsonl").write_bytes(b"\xff\n")
    with pytest.raises(ValueError, match=r"history\.jsonl: not a text file"):
        read_history(tmp_path / "history.jsonl")


def test_checkpoints_are_saved_at_the_start_after_some_time_and_after_epochs(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: now[0])
    saves = []
    checkpointer = Checkpointer(lambda: saves.append(now[0]), minutes=2)
    checkpointer.on_epoch_start(1, 3, 100)
    for seconds in (60, 119, 121, 200, 240, 242):
        now[0] = seconds
        checkpointer.on_step(Metrics())
    checkpointer.on_epoch_end(RECORD)
    checkpointer.on_epoch_start(2, 3, 100)
    checkpointer.on_interrupt()  # nothing has happened since
    assert saves == [0, 121, 242, 242]
    checkpointer.on_step(Metrics())
    checkpointer.on_interrupt()
    assert saves == [0, 121, 242, 242, 242]


def test_the_checkpointer_refuses_options_it_does_not_have():
    for options, fault in (
        ({"minutes": -1}, "at least 0"),
        ({"minutes": float("nan")}, "nan"),
        ({"on_error": "x"}, "'x'"),
    ):
        with pytest.raises(ValueError, match=fault):
            Checkpointer(lambda: None, **options)


def test_table_aligns_its_columns():
    stream = io.StringIO()
    table = Table(stream)
    table.on_epoch_end(RECORD | {"test_loss": 0.5, "test_accuracy": 0.5})
    table.on_epoch_end(RECORD | {"epoch": 2, "test_loss": 0.25, "test_accuracy": 0.9875})
    heading, first, second = stream.getvalue().splitlines()
    assert len(heading) == len(first) == len(second)
    assert "87.50%" in first
    assert "98.75%" in second
    assert "1,234" in second
    assert heading.index("test accuracy") + len("test accuracy") == second.index("98.75%") + len("98.75%")


def test_validation_has_columns_of_its_own():
    stream = io.StringIO()
    Table(stream).on_epoch_end(RECORD | {"validation_loss": 0.25, "validation_accuracy": 0.9875})
    heading, row = stream.getvalue().splitlines()
    for name, value in (("validation loss", "0.2500"), ("validation accuracy", "98.75%")):
        assert heading.index(name) + len(name) == row.index(value) + len(value)
    assert "test" not in heading


def test_progress_bar_shows_loss_accuracy_rate_and_time(capsys):
    bar = ProgressBar(interval=0)
    bar.on_epoch_start(2, 5, batches=3)
    metrics = Metrics()
    for _ in range(3):
        metrics.update(np.float32(0.75), np.eye(4), np.arange(4))
        bar.on_step(metrics)
    bar.on_epoch_end({"validation_loss": 0.25, "validation_accuracy": 0.9})
    shown = capsys.readouterr().err
    assert "epoch 2/5" in shown
    assert "validation" not in shown
    assert "loss 0.7500, accuracy 100.00%" in shown
    assert "images/s" in shown
    assert "<" in shown  # tqdm's time left
    bar.on_epoch_start(3, 5, batches=3)
    bar.on_step(metrics)
    bar.on_stop()
    assert "accuracy 100.00%, validation loss 0.2500, validation accuracy 90.00%" in capsys.readouterr().err


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
