"""The page about a run: right numbers, whatever the classes, the epochs and the names."""

import io

import numpy as np
import pytest
from helpers import read_few
from html_pages import Page
from inputs import refused

from xpcnn import Dataset, models, nn
from xpcnn.report import run_report, write_run_report
from xpcnn.report.classes import Predictions
from xpcnn.training import Run, RunConfig

CONFUSION = "Number of test images by true class (rows) and predicted class (columns)"
EACH = "Recall: correct among the images of the class. Precision: correct among those taken for it."
LAYERS = "Layers with output shapes, parameters and multiply-adds"


def records(epochs, part="test"):
    return [
        {"epoch": e, "step": 10 * e, "train_loss": 1 / e, "train_accuracy": 1 - 0.5 / e, "learning_rate": 1e-3}
        | {f"{part}_loss": 2 / e, f"{part}_accuracy": 1 - 0.6 / e, "seconds": 90.0, "images_per_second": 1234.5}
        for e in range(1, epochs + 1)
    ]


def images(labels, classes, shape=(1, 6, 5)):
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), *shape)).astype(np.uint8)
    return Dataset(pixels, np.array(labels), classes=classes, name="mine", part="test")


def probabilities(guesses, classes, sure=0.75):
    found = np.full((len(guesses), classes), (1 - sure) / (classes - 1))
    found[np.arange(len(guesses)), guesses] = sure
    return found


def test_two_classes_with_hostile_names_and_a_single_epoch():
    names = ('<script>alert("1")</script>', "b' onload=x & c\x00\udcff")
    test = images([0, 0, 0, 1, 1, 1, 1], names)
    found = probabilities([0, 0, 1, 1, 1, 1, 0], 2)
    found[2] = 0.1, 0.9
    config = {"data": "<b>folder</b>", "lr": None}
    page = Page(run_report("<i>mine</i>", records(1), test=test, probabilities=found, config=config))
    shown = [names[0], "b' onload=x & c\N{REPLACEMENT CHARACTER}\\udcff"]
    assert page.tables[CONFUSION] == [["true ↓predicted →", *shown], [shown[0], "2", "1"], [shown[1], "1", "3"]]
    assert page.tables[EACH][1:] == [[shown[0], "3", "66.7%", "66.7%"], [shown[1], "4", "75.0%", "75.0%"]]
    assert "71.43% of 7 test images classified correctly" in page.text
    assert "1 epoch · 1 min 30 s of training" in page.text
    assert "data <b>folder</b> lr - " in page.text
    # The surest first: of class 0, taken for class 1 with 90 %.
    assert [alt for _, alt in page.pictures] == [f"test image {i}, of class {shown[k]}" for i, k in ((2, 0), (6, 1))]
    assert page.text.index("(90.0%)") < page.text.index("(75.0%)")
    pillow = pytest.importorskip("PIL.Image", reason="reading a PNG needs the viz extra")
    np.testing.assert_array_equal(np.asarray(pillow.open(io.BytesIO(page.pictures[0][0]))), test.images[2, 0])


def test_a_hundred_classes_are_a_picture_and_their_worst_pairs():
    names = [f"class {i}" for i in range(100)]
    labels = np.arange(1000) % 100
    guesses = labels.copy()
    guesses[labels == 7] = 93
    guesses[3] = 4
    source = run_report("many", records(40), test=images(labels, names), probabilities=probabilities(guesses, 100))
    page = Page(source)
    assert CONFUSION not in page.tables
    assert page.tables["Most frequent mistakes"][1:] == [
        ["class 7", "class 93", "10", "100.0%"],
        ["class 3", "class 4", "1", "10.0%"],
    ]
    assert [row[0] for row in page.tables[EACH][1:3]] == ["class 7", "class 3"]
    assert page.tables[EACH][1][2:] == ["0.0%", "-"]
    assert page.pictures[0][1].startswith("Confusion of 100 classes")
    assert len(source) < 200_000
    pillow = pytest.importorskip("PIL.Image", reason="reading a PNG needs the viz extra")
    matrix = np.asarray(pillow.open(io.BytesIO(page.pictures[0][0])))
    assert matrix.shape == (400, 400, 4)
    assert matrix[7 * 4, 93 * 4, 3] == matrix[5 * 4, 5 * 4, 3] == 255
    assert matrix[7 * 4, 7 * 4, 3] == matrix[0, 4, 3] == 0
    assert 0 < matrix[3 * 4, 4 * 4, 3] < 255


def test_no_mistakes():
    page = Page(run_report("all", [], test=images([0, 1], ("a", "b")), probabilities=probabilities([0, 1], 2)))
    assert "There are none: all 2 images are classified correctly." in page.text
    assert not page.pictures


def test_records_only_with_a_validation_part():
    page = Page(run_report("short", records(3, "validation")))
    head, first, *_ = page.tables["Each epoch"]
    assert head == ["epoch", "training loss", "training accuracy", "validation loss", "validation accuracy", "seconds", "images/s"]  # fmt: skip # noqa: E501
    assert first == ["1", "1", "50%", "2", "40%", "90.0", "1,234"]
    labels = [attributes["aria-label"] for tag, attributes in page.tags if tag == "svg" and "role" in attributes]
    assert labels[0] == "loss by epoch: training from 1 to 0.33333; validation from 2 to 0.66667"
    assert "classified correctly" not in page.text
    assert {CONFUSION, LAYERS}.isdisjoint(page.tables)


def test_layers_are_those_of_the_summary_and_filters_are_pictures():
    model = models.lenet5((3, 28, 28), 5, seed=1)
    page = Page(run_report("net", [], model=model, in_shape=(3, 28, 28)))
    summary = model.summary((3, 28, 28))
    assert page.tables[LAYERS][-1] == ["total", "", "", f"{summary.parameters:,}", f"{summary.multiply_adds:,}"]
    assert page.tables[LAYERS][1] == ["conv1", "Conv2d", "6×28×28", "456", "352,800"]
    assert len(page.tables[LAYERS]) == 2 + len(summary.layers)
    assert [alt for _, alt in page.pictures] == [f"filter {i} of conv1" for i in range(6)]
    pillow = pytest.importorskip("PIL.Image", reason="reading a PNG needs the viz extra")
    weight = model["conv1"].weight.data[2].transpose(1, 2, 0).astype(np.float64)
    expected = np.rint((weight - weight.min()) / (weight.max() - weight.min()) * 255)
    np.testing.assert_array_equal(np.asarray(pillow.open(io.BytesIO(page.pictures[2][0]))), expected)


def test_a_network_that_needs_several_images_still_has_a_report():
    class Pairs(nn.Module):
        def forward(self, x):
            if len(x) < 2:
                raise RuntimeError("<two> images at least")
            return x

    page = Page(run_report("pairs", [], model=nn.Sequential(Pairs()), in_shape=(1, 2, 2)))
    assert "one image alone fails: RuntimeError: 0 (Pairs): <two> images at least" in page.text


def test_predictions_of_parts_are_those_of_the_whole(rng):
    logits = rng.standard_normal((9, 4))
    found = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = rng.integers(0, 4, 9)
    parts = [Predictions.of(found[rows], labels[rows]) for rows in (slice(5), slice(5, 9))]
    whole = Predictions.joined(parts)
    np.testing.assert_array_equal(whole.predicted, found.argmax(1))
    np.testing.assert_array_equal(whole.confidence, found.max(1))
    assert whole.loss == pytest.approx(-np.log(found[range(9), labels]).mean())


def test_a_run_on_any_device_writes_its_report(tmp_path, device, monkeypatch):
    read_few(monkeypatch, 96)
    monkeypatch.setattr("xpcnn.report.run._AT_ONCE", 40)  # three parts, the last one shorter
    with Run(tmp_path / "run", RunConfig(model="numpy_cnn", epochs=1), device=device) as run:
        run.fit()
        path = write_run_report(run)
    page = Page(path.read_text())
    assert f"{run.records[0]['test_accuracy']:.2%} of 96 test images" in page.text
    assert f"device {device.name} ({device.description})" in page.text
    assert "batch_size 64" in page.text
    assert page.tables[LAYERS][-1][-1] == f"{run.trainer.model.summary((1, 28, 28)).multiply_adds:,}"


def test_probabilities_of_other_images_are_refused():
    with refused("expected probabilities (images, classes) = (2, 2), got (2, 3)"):
        run_report("x", [], test=images([0, 1], ("a", "b")), probabilities=np.ones((2, 3)))
