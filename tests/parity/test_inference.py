"""`--mode eval`: inference compared layer by layer and as evaluation rewrites it; wrong rewrites are found."""

import copy
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from other_order import other_order
from strict_xp import DEVICE

from xpcnn.backend import CPU, device_of
from xpcnn.cli import main
from xpcnn.nn import MaxPool2d, changes, evaluation
from xpcnn.parity import TraceConfig, TraceError, check, files, record, run

CONFIG = TraceConfig(model="resnet20", steps=2, batch_size=2, mode="eval")
LENET = replace(CONFIG, model="lenet5", batch_size=4)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    return record(tmp_path_factory.mktemp("trace") / "resnet20", CONFIG).path


def test_a_network_with_batch_norm_agrees_layer_by_layer_and_rewritten(recorded):
    with other_order():
        report = check(recorded, DEVICE)
    assert report.agrees, report.text()
    assert report.verdict.startswith("AGREE: strict and cpu")
    assert report.text().startswith("resnet20 on mnist-mini, evaluated after each of 2 steps of 2 images, float32\n")
    arrays = [c for c in report.comparisons if c.source == "arrays" and c.layer != "loss"]
    assert {c.direction for c in arrays} == {"forward"}
    layers = {name for name, _ in CONFIG.make_model(CONFIG.load_data()[0]).named_leaves()}
    network = {"whole network", "rewritten network", "rewritten, here", "rewritten, recorded"}
    assert {c.layer for c in arrays} == layers | network
    assert f"{len(layers) + 1} layers, 2 steps" in report.verdict
    folded = {c.layer: c.relative for c in arrays if c.step == 2}
    assert 0 < folded["rewritten, here"] < 1e-4
    assert 0 < folded["rewritten, recorded"] < 1e-4
    assert report.losses[1].here != report.losses[0].here


def test_the_same_device_computes_the_same_bits(recorded):
    report = check(recorded, "cpu")
    between_rewrites = ("rewritten, here", "rewritten, recorded")
    assert {c.absolute for c in report.comparisons if c.layer not in between_rewrites} == {0.0}


def test_running_averages_have_moved(recorded):
    from xpcnn.parity.files import Folder, load_step
    from xpcnn.parity.record import Trace

    trace = Trace.load(recorded)
    *_, last = (load_step(Folder(trace.path), step, entry) for step, entry in enumerate(trace.steps(), 1))
    averages = [array for name, array in last.after.items() if "running_" in name]
    assert averages
    assert all(np.unique(array).size > 1 for array in averages)


def without_mean(weight, bias, norm, folded):
    weight, bias = folded(weight, bias, norm)
    return weight, bias if norm is None else norm.bias.data


def without_epsilon(weight, bias, norm, folded):
    if norm is None:
        return folded(weight, bias, norm)
    other = copy.copy(norm)
    other.eps = 0
    return folded(weight, bias, other)


@pytest.mark.parametrize(
    ("fault", "device", "options", "where"),
    [
        (without_mean, DEVICE, {}, "here"),
        (without_epsilon, CPU, {"dtype": "float64"}, "recorded"),
    ],
)
def test_a_wrong_fold_of_batch_norm_is_found_on_either_device(monkeypatch, fault, device, options, where):
    folded = evaluation._with_batch_norm

    def faulty(weight, bias, norm):
        return fault(weight, bias, norm, folded) if device_of(weight) is device else folded(weight, bias, norm)

    monkeypatch.setattr(evaluation, "_with_batch_norm", faulty)
    (report,) = run(replace(CONFIG, steps=1, **options), ["cpu", DEVICE])
    assert not report.agrees
    assert report.first_difference.startswith(f"step 1, layer rewritten, {where} (network), forward: y is off by")
    differing = {c.layer for c in report.comparisons if not c.agrees and c.source == "arrays"}
    assert differing == {f"rewritten, {where}", "rewritten network"}


@pytest.mark.parametrize("side", ["recorded", "here"])
def test_filters_kept_from_older_weights_are_found(side, tmp_path):
    def nothing_is_noticed(when):
        return patch.setattr(changes, "note", lambda: None) if side == when else None

    with pytest.MonkeyPatch.context() as patch:
        nothing_is_noticed("recorded")
        path = record(tmp_path / "trace", CONFIG).path
    with pytest.MonkeyPatch.context() as patch:
        nothing_is_noticed("here")
        report = check(path, "cpu")
    assert report.first_difference.startswith(f"step 2, layer rewritten, {side} (network), forward: y is off by")


def test_a_wrong_layer_is_named(monkeypatch):
    forward = MaxPool2d.forward

    def wrong(layer, x):
        return forward(layer, x) * (1.001 if device_of(x) is DEVICE and not layer.training else 1)

    monkeypatch.setattr(MaxPool2d, "forward", wrong)
    (report,) = run(LENET, ["cpu", DEVICE])
    assert report.first_difference.startswith("step 1, layer pool1 (MaxPool2d), forward: y is off by")


def test_beyond_the_limit_the_size_of_the_rewritten_output_is_compared(tmp_path, monkeypatch):
    path = record(tmp_path / "trace", LENET, limit=0).path
    with other_order():
        report = check(path, DEVICE)
    assert report.agrees
    assert "rewritten network" in {c.layer for c in report.comparisons}
    forward = evaluation.FoldedConv2d.forward
    monkeypatch.setattr(evaluation.FoldedConv2d, "forward", lambda step, x: forward(step, x) * 1.01)
    report = check(path, DEVICE)
    assert report.first_difference.startswith("step 1, layer rewritten network (network), forward: y is off by")


def test_a_trace_of_evaluation_needs_the_rewritten_output(recorded, tmp_path):
    info = json.loads((recorded / "trace.json").read_text())
    del info["sha256"]["trace.json"]
    info["steps"][1]["rewritten"] = None
    info["sha256"]["trace.json"] = files._digest_of(info)
    damaged = shutil.copytree(recorded, tmp_path / "trace")
    (damaged / "trace.json").write_text(json.dumps(info))
    with pytest.raises(TraceError, match="the arrays of step 2 are not those of resnet20"):
        check(damaged, "cpu")


def test_the_mode_is_an_option(tmp_path, capsys):
    few = ["--steps", "1", "--batch-size", "2"]
    assert main(["parity", "run", "--mode", "eval", *few, "--devices", "cpu,cpu"]) == 0
    assert "evaluated after each of 1 steps of 2 images" in capsys.readouterr().out
    assert main(["parity", "run", "--mode", "test", "--devices", "cpu,cpu"]) == 2
    assert "expected mode train or eval, got 'test'" in capsys.readouterr().err
