"""`xpcnn export`: pictures as they are, into onnxruntime, give the classes that `predict` prints."""

import json

import numpy as np
import pytest

from xpcnn.cli import main
from xpcnn.data import load_dataset
from xpcnn.training import load_trained


def test_a_run_as_a_file(model, tmp_path, capsys):
    onnx = pytest.importorskip("onnx", reason="needs the onnx extra")
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the onnx extra")
    assert main(["export", model, str(tmp_path / "net.onnx")]) == 0
    printed = capsys.readouterr().out
    assert "10 classes" in printed
    assert "within" in printed
    images = load_dataset("mnist-mini", "test").images[:20]
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"images": np.asarray(images)})
    expected = load_trained(model, "cpu").predict(images)
    np.testing.assert_array_equal(logits.argmax(axis=1), expected.argmax(axis=1))
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == [str(i) for i in range(10)]
    assert main(["export", model, str(tmp_path / "net.onnx"), "--no-fold"]) == 0
    assert onnx.load(tmp_path / "net.onnx").producer_name == "xpcnn"


def test_what_cannot_be_exported(model, tmp_path, capsys, monkeypatch):
    for arguments, words in (
        ([model, str(tmp_path / "no" / "net.onnx")], "there is no folder"),
        ([str(tmp_path / "none"), str(tmp_path / "net.onnx")], "none"),
    ):
        assert main(["export", *arguments]) == 2
        assert words in capsys.readouterr().err
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    assert main(["export", model, str(tmp_path / "net.onnx")]) == 2
    assert "needs onnx: python -m pip install onnx onnxruntime" in capsys.readouterr().err
    assert not (tmp_path / "net.onnx").exists()
