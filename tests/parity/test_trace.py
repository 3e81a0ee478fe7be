"""Traces: a run recorded on one device and repeated on another; what differs is named, what is no trace refused."""

import json
import os
import shutil
from dataclasses import replace
from hashlib import sha256
from types import SimpleNamespace

import numpy as np
import pytest
from other_order import other_order
from safetensors.numpy import load, save
from strict_xp import DEVICE

from xpcnn import nn, parity
from xpcnn.backend import CPU, device_of
from xpcnn.data import Dataset
from xpcnn.parity import TraceConfig, TraceError, check, record, run
from xpcnn.parity import files as trace_files
from xpcnn.parity.drift import drift_by_step
from xpcnn.training import RunConfig

QUICK = {"steps": 4, "batch_size": 4}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A trace of LeNet-5 that is only read."""
    return record(tmp_path_factory.mktemp("trace") / "lenet5", TraceConfig(**QUICK)).path


@pytest.fixture
def trace(recorded, tmp_path):
    """A copy of it to do harm to."""
    return shutil.copytree(recorded, tmp_path / "trace")


def test_a_trace_agrees_with_every_device_in_any_order_of_summation(recorded, device):
    with other_order():
        report = check(recorded, device)
    assert report.agrees, report.text()
    assert report.first_difference is None
    assert report.verdict == f"AGREE: {device.name} and cpu, 13 layers, 4 steps (every array of 4 of them)"
    compared = {(c.layer, c.direction) for c in report.comparisons if c.source == "arrays"}
    for layer in ("conv1", "conv2", "fc1", "fc2", "fc3"):
        assert {(layer, direction) for direction in ("forward", "backward", "update")} <= compared
    assert {("relu1", "backward"), ("pool2", "backward"), ("loss", "forward"), ("loss", "backward")} <= compared
    if device is CPU:
        assert max(c.absolute for c in report.comparisons) == 0
    if device is DEVICE:
        assert max(c.severity for c in report.comparisons) > 0.05


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": "float64"},
        {"optimizer": "adamw", "weight_decay": 0.01},
        {"model": "resnet20", "steps": 1, "batch_size": 2},
        {"precision": "mixed"},
        {"precision": "mixed", "mode": "eval"},
    ],
    ids=str,
)
def test_other_configurations_agree(tmp_path, options):
    with other_order():
        (report,) = run(TraceConfig(**QUICK | {"batch_size": 4} | options), ["cpu", DEVICE])
    assert report.agrees, report.text()
    assert max(c.severity for c in report.comparisons if c.source == "arrays") > 0.05


class Faulty:
    """Makes one method of a layer class wrong on the make-believe device, in one call of many."""

    def __init__(self, method, in_call, harm):
        self.method, self.in_call, self.harm, self.calls = method, in_call, harm, 0

    def __call__(self, layer, array, **options):
        result = self.method(layer, array, **options)
        if device_of(array) is DEVICE:
            self.calls += 1
            if self.calls == self.in_call:
                self.harm(layer, result)
        return result


def times(factor):
    def harm(layer, result):
        result *= factor

    return harm


def wrong_bias(layer, result):
    layer.bias.grad[1:2] *= 1.001


@pytest.mark.parametrize(
    ("kind", "method", "in_call", "harm", "where"),
    [
        (nn.Conv2d, "forward", 2, times(1.0001), "step 1, layer conv2 (Conv2d), forward: y"),
        (nn.Conv2d, "forward", 5, times(1.0001), "step 3, layer conv1 (Conv2d), forward: y"),
        (nn.ReLU, "forward", 9, times(1.0001), "step 3, layer relu1 (ReLU), forward: y"),
        (nn.MaxPool2d, "backward", 4, times(1.0001), "step 2, layer pool2 (MaxPool2d), backward: dx"),
        (nn.Linear, "backward", 3, wrong_bias, "step 1, layer fc3 (Linear), backward: bias is off by"),
        (nn.Conv2d, "backward", 8, times(np.nan), "step 4, layer conv2 (Conv2d), backward: dx is off by inf"),
    ],
)
def test_the_first_wrong_layer_and_step_are_named(recorded, monkeypatch, kind, method, in_call, harm, where):
    # Replaying visits a step's layers forwards, each forward and backward, and only then the next step.
    faulty = Faulty(getattr(kind, method), in_call, harm)
    monkeypatch.setattr(kind, method, lambda layer, array, **options: faulty(layer, array, **options))
    with other_order():
        report = check(recorded, DEVICE)
    assert not report.agrees
    assert report.verdict.startswith(f"DIFFER: strict and cpu, first in {where}")


def test_a_wrong_update_is_named(recorded, monkeypatch):
    from xpcnn.optim import SGD

    step = SGD.step

    def goes_too_far(self):
        step(self)
        for parameter in self.parameters.values():
            if device_of(parameter.data) is DEVICE and self.steps == 3 and parameter.data.shape == (84, 120):
                parameter.data *= 1.00001

    monkeypatch.setattr(SGD, "step", goes_too_far)
    with other_order():
        report = check(recorded, DEVICE)
    assert "step 3, layer fc2 (Linear), update: weight is off by" in report.first_difference


def test_what_layers_do_not_see_shows_in_the_run_of_its_own(recorded, monkeypatch):
    forward = nn.Sequential.forward

    def wrong(self, x):
        return forward(self, x * x.dtype.type(1.01) if device_of(x) is DEVICE else x)

    monkeypatch.setattr(nn.Sequential, "forward", wrong)
    with other_order():
        report = check(recorded, DEVICE)
    assert report.first_difference.startswith("step 1, layer conv1 (Conv2d), forward: y is off by")
    assert {c.source for c in report.comparisons if not c.agrees} == {"sizes"}
    assert not report.losses[0].agrees


def test_beyond_the_size_limit_only_sizes_are_kept(tmp_path):
    whole = record(tmp_path / "whole", TraceConfig(**QUICK))
    one_step = (whole.path / "step-0001.safetensors").stat().st_size
    part = record(tmp_path / "part", TraceConfig(**QUICK), limit=one_step * 5 // 2)
    assert [step["file"] is None for step in part.steps()] == [False, False, True, True]
    none = record(tmp_path / "none", TraceConfig(**QUICK), limit=0)
    assert sorted(path.name for path in none.path.iterdir()) == ["initial.safetensors", "trace.json"]
    with other_order():
        report = check(none.path, DEVICE)
    assert report.agrees
    assert report.verdict.endswith("13 layers, 4 steps (sizes only)")
    assert {c.source for c in report.worst()} == {"sizes"}


def edit(change):
    def damage(folder):
        info = json.loads((folder / "trace.json").read_text())
        del info["sha256"]["trace.json"]
        change(info)
        info["sha256"]["trace.json"] = trace_files._digest_of(info)
        (folder / "trace.json").write_text(json.dumps(info))

    return damage


def edit_arrays(name, change):
    """Change the arrays of a file, and its digest as well."""

    def damage(folder):
        arrays = load((folder / name).read_bytes())
        change(arrays)
        (folder / name).write_bytes(save(arrays))
        sign(name)(folder)

    return damage


def sign(name):
    return lambda folder: edit(
        lambda info: info["sha256"].update({name: sha256((folder / name).read_bytes()).hexdigest()})
    )(folder)


def of_type(name, dtype):
    """Write a file with an array of a data type of two bytes that NumPy may not have."""

    def damage(folder):
        header = json.dumps({"0": {"dtype": dtype, "shape": [1], "data_offsets": [0, 2]}}).encode()
        (folder / name).write_bytes(len(header).to_bytes(8, "little") + header + bytes(2))
        sign(name)(folder)

    return damage


def outside(folder):
    (folder.parent / "step-0001.safetensors").write_bytes((folder / "step-0001.safetensors").read_bytes())
    edit(lambda info: info["steps"][0].update(file="../step-0001.safetensors"))(folder)


def fifo(folder):
    (folder / "step-0002.safetensors").unlink()
    os.mkfifo(folder / "step-0002.safetensors")


def cut(name):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-9])


DAMAGE = {
    "absent": (shutil.rmtree, "is no trace: trace.json cannot be read"),
    "newer": (edit(lambda info: info.update(version=4)), "version 4, this xpcnn reads version 3: update xpcnn"),
    "older": (
        edit(lambda info: info.update(version=2)),
        "has trace version 2, this xpcnn reads version 3: record it again",
    ),
    "step not described": (
        edit(lambda info: info["steps"][1].pop("loss_call")),
        r"trace.json: steps\[1\]: loss_call is absent",
    ),
    "arrays not described": (
        edit(lambda info: info["steps"][1]["loss_call"].update(output="no such")),
        "step 2 does not describe its arrays",
    ),
    "nested deeply": (
        lambda folder: (folder / "trace.json").write_text("[" * 100_000),
        "trace.json is not JSON",
    ),
    "a file outside": (outside, r"steps\[0\].file: expected step-0001.safetensors or null, got '../step-0001"),
    "a file of another step": (
        edit(lambda info: info["steps"][1].update(file="step-0001.safetensors")),
        r"steps\[1\].file: expected step-0002.safetensors",
    ),
    "no file": (edit(lambda info: info["steps"][1].pop("file")), r"steps\[1\]: file is absent"),
    "a wrong type": (
        edit(lambda info: info["steps"][2].update(loss="2.3")),
        r"trace.json: steps\[2\].loss: expected a number, got '2.3'",
    ),
    "no list": (edit(lambda info: info.update(steps=3)), "steps: expected a list, got 3"),
    "no object": (edit(lambda info: info["steps"].insert(0, 3)), r"steps\[0\]: expected an object, got 3"),
    "controls of a terminal": (
        edit(lambda info: info["recorded"].update(device="\x1b[2J")),
        r"recorded.device: expected a text, got '\\x1b",
    ),
    "no drift": (edit(lambda info: info["steps"][0]["drift"].pop("tf32")), "no drift for float32 and tf32"),
    "a FIFO": (fifo, "step-0002.safetensors cannot be read .it is a FIFO"),
    "bfloat16": (
        of_type("step-0001.safetensors", "BF16"),
        "step-0001.safetensors has arrays that cannot be read .'BF16'",
    ),
    "two lines": (of_type("step-0001.safetensors", "a\nb"), "step-0001.safetensors has arrays that cannot be"),
    "bfloat16 weights": (of_type("initial.safetensors", "BF16"), "initial.safetensors has arrays that cannot be read"),
    "float16 weights": (
        edit_arrays("initial.safetensors", lambda a: a.update({"state.fc3.bias": np.zeros(10, np.float16)})),
        "its weights are of another data type",
    ),
    "no batch": (edit_arrays("initial.safetensors", lambda a: a.pop("batch.3")), "batch.3 is absent"),
    "an empty batch": (
        edit_arrays("initial.safetensors", lambda a: a.update({"batch.3": a["batch.3"][:0]})),
        "no indices of samples",
    ),
    "a batch beyond the data": (
        edit_arrays("initial.safetensors", lambda a: a.update({"batch.3": a["batch.3"] + 10**6})),
        "the images of step 3 are not those of mnist-mini",
    ),
    "a gradient of another shape": (
        edit_arrays("step-0002.safetensors", lambda a: a.update({key: a[key][:1] for key in a if a[key].ndim == 4})),
        "the arrays of step 2 are not those of lenet5",
    ),
    "other labels": (
        edit_arrays("step-0001.safetensors", lambda a: [array.fill(9) for array in a.values() if array.dtype == int]),
        "the labels of step 1 are not those of mnist-mini",
    ),
    "foreign": (edit(lambda info: info.update(format="x")), "is no trace"),
    "not JSON": (cut("trace.json"), "is not JSON"),
    "JSON changed": (
        lambda folder: (folder / "trace.json").write_text(
            (folder / "trace.json").read_text().replace("0.05", "0.06").replace('"correct": ', '"correct": 1')
        ),
        "trace.json is not as it was recorded",
    ),
    "no configuration": (edit(lambda info: info.pop("config")), "trace.json: config is absent"),
    "unknown option": (edit(lambda info: info["config"].update(speed=3)), "does not describe a run"),
    "steps missing": (edit(lambda info: info["steps"].pop()), "has 3 of 4 steps"),
    "weights cut": (cut("initial.safetensors"), "initial.safetensors is not as it was recorded"),
    "arrays cut": (cut("step-0002.safetensors"), "step-0002.safetensors is not as it was recorded"),
    "arrays absent": (
        lambda folder: (folder / "step-0003.safetensors").unlink(),
        "step-0003.safetensors cannot be read",
    ),
    "unknown model": (
        edit(lambda info: info["config"].update(model="alexnet")),
        "does not describe a run .unknown model 'alexnet'",
    ),
    "another model": (edit(lambda info: info["config"].update(model="numpy_cnn")), "another model: state does not fit"),
    "another network of that name": (edit(lambda info: info["layers"].pop()), "another lenet5: its layers differ"),
    "another data set": (
        edit(lambda info: info["steps"][1].update(data="0" * 64)),
        "the images of step 2 are not those of mnist-mini",
    ),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_what_cannot_be_repeated_is_refused_in_one_line(trace, damage, message):
    damage(trace)
    with pytest.raises(TraceError, match=message) as caught:
        check(trace, "cpu")
    assert "\n" not in str(caught.value)
    assert str(trace) in str(caught.value)


def test_recording_refuses_what_makes_no_trace(tmp_path, recorded):
    with pytest.raises(ValueError, match="exists already"):
        record(recorded, TraceConfig(**QUICK))
    assert (recorded / "trace.json").exists()
    (tmp_path / "other").mkdir()
    with pytest.raises(TraceError, match=r"the loss became .* at step .* a lower lr may help"):
        record(tmp_path / "new" / "trace", TraceConfig(**QUICK, lr=1e30))
    with pytest.raises(ValueError, match="limit must be at least 0, got -1"):
        record(tmp_path / "other" / "trace", TraceConfig(**QUICK), limit=-1)
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["other"]  # no folder left behind
    for options, message in (
        ({"precision": "tf32"}, "recorded in float32 or mixed precision"),
        ({"precision": "mixed", "dtype": "float64"}, "mixed precision is for dtype float32, got float64"),
    ):
        with pytest.raises(ValueError, match=message):
            TraceConfig(**options)
    for options, message in (({"steps": 0}, "at least 1 step"), ({"dtype": "int8"}, "'int8'"), ({"data": "x"}, "'x'")):
        with pytest.raises(ValueError, match=message):
            TraceConfig(**options)
    with pytest.raises(ValueError, match="at least two devices, got cpu"):
        run(TraceConfig(**QUICK), ["cpu"])
    with pytest.raises(ValueError, match="TF32 was asked for, but cpu does not have it"):
        check(recorded, "cpu", precision="tf32")
    with pytest.raises(ValueError, match="was recorded in the precision float32, it cannot be checked in mixed"):
        check(recorded, "cpu", precision="mixed")


def test_twenty_steps_need_no_more_than_the_measured_drift(tmp_path):
    """A run with other rounding from the start on stays within it for all 20 steps."""
    path = record(tmp_path / "trace", TraceConfig(batch_size=4), limit=0).path
    info = json.loads((path / "trace.json").read_text())
    for direction, at_first in (("forward", 1e-4), ("backward", 1e-2)):
        drift = [step["drift"]["float32"][direction] for step in info["steps"]]
        assert drift == sorted(drift)
        assert 0 < drift[0] < at_first
    with other_order():
        report = check(path, DEVICE)
    assert report.agrees, report.text()
    assert {c.step for c in report.comparisons} == set(range(1, 11))  # later: loss and accuracy alone
    assert len(report.losses) == 20


def test_an_operand_that_is_not_rounded_is_named(recorded, monkeypatch):
    (report,) = run(TraceConfig(**QUICK, precision="mixed"), ["cpu", DEVICE])
    assert report.agrees, report.text()
    assert report.precision == "mixed"
    exact = lambda self, a, b, out: self.xp.matmul(a.astype(out.dtype), b.astype(out.dtype), out=out)  # noqa: E731
    monkeypatch.setattr(type(DEVICE), "matmul", exact)
    (report,) = run(TraceConfig(**QUICK, precision="mixed"), ["cpu", DEVICE])
    assert "in step 1, layer conv1" in report.verdict


def test_older_traces_are_of_float32(trace):
    edit(lambda info: info["config"].pop("precision"))(trace)
    assert parity.Trace.load(trace).config == TraceConfig(**QUICK)


def test_the_accuracy_may_differ_as_far_as_samples_change_sides(recorded):
    """In the steps of a chaotic run some change sides whatever computes it; the twin shows how many."""
    report = check(recorded, DEVICE)
    *before, last = report.losses
    assert last.correct_tolerance >= 2
    for off, verdict in ((0, None), (last.correct_tolerance + 1, "the accuracy over all steps")):
        total = int(sum(loss.correct for loss in before) + last.correct + off)
        moved = replace(last, recorded_correct=total - sum(loss.recorded_correct for loss in before))
        assert replace(report, losses=[*before, moved]).first_difference == verdict


def test_the_number_that_changes_sides_is_the_root_of_its_squares():
    twin = [SimpleNamespace(correct=correct, quantities=lambda: {"loss": 1.0}) for correct in (5, 8, 10)]
    found = [drift["correct"] for drift in drift_by_step([({"loss": 1.0}, correct) for correct in (5, 5, 14)], twin)]
    assert found == [0, 3, 5]


def test_the_package_says_what_it_offers():
    assert all(hasattr(parity, name) for name in parity.__all__)


def test_a_trace_has_no_augmentation():
    dataset = Dataset(np.zeros((2, 28, 28), np.uint8), [0, 1])
    assert RunConfig().make_transform(dataset) is not None
    assert TraceConfig().make_transform(dataset) is None
