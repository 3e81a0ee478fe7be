"""Inference by onnxruntime: a further column of `benchmark.py`, where onnx and onnxruntime are installed."""

from __future__ import annotations

import io
import warnings
from importlib.util import find_spec
from typing import Any

import numpy as np
from benchmark_torch import Step, to_torch

from xpcnn import nn


def available() -> bool:
    """Return whether the packages are installed."""
    return all(find_spec(name) is not None for name in ("onnx", "onnxruntime"))


def onnx_step(model: nn.Module, images: Any, threads: int) -> Step:
    """Return a closure that runs one inference, and returns the network's output.

    The network is PyTorch's translation, exported for the batch's shape.
    """
    import onnxruntime

    x = np.ascontiguousarray(images)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Its threads spin while they wait for work; after a run, that would slow down the others' turns.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(_exported(model, x), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: x})[0]


def _exported(model: nn.Module, x: np.ndarray[Any, Any]) -> bytes:
    import torch

    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # The newer exporter needs one more package, and gives the same operators.
        torch.onnx.export(to_torch(model).eval(), (torch.tensor(x),), file, dynamo=False, opset_version=17)
    return file.getvalue()
