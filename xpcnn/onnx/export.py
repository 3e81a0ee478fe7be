"""Writing a network as an ONNX file, checked before it is there."""

from __future__ import annotations

import json
import os
from math import isfinite
from typing import Any

import numpy as np

from .. import __version__
from ..backend import HostArray, to_host
from ..data import DataSpec
from ..data.normalize import Normalize
from ..extras import needed_for
from ..nn import Module
from ..training.files import write_atomically
from ..training.predict import evaluating
from .graph import Graph

OPSET, IR_VERSION = 17, 8  # of 2022: onnxruntime 1.12 reads them
TOLERANCE = 1e-5  # of the largest logit
_IMAGES = 8  # in the batch that is compared


class ExportError(ValueError):
    """The file would not compute what the network computes."""


def export(
    model: Module,
    path: str | os.PathLike[str],
    in_shape: tuple[int, ...],
    *,
    fold: bool = True,
    spec: DataSpec | None = None,
) -> float | None:
    """Write a network, as it is in evaluation, to an ONNX file with the input `images` and the output `logits`.

    The length of the batch is left open. The file is checked by `onnx.checker` and, where onnxruntime is installed,
    compared with the network on a batch of random images. It is written if both are passed.

    Args:
        model: a network of the package's layers, with parameters of float32.
        path: the file; an existing one is replaced.
        in_shape: of one input, such as `(1, 28, 28)`.
        fold: whether a batch norm after a convolution becomes part of its weight and bias.
        spec: of the training images, to take pixels as they are in pictures: their scaling becomes part of the graph,
            and the names of the classes, as a JSON list, the entry `classes` of the metadata.

    Returns:
        the largest difference from the network's output, divided by the largest output; None without onnxruntime.

    Raises:
        ValueError: if a layer cannot be written, named with the reason, or the shape does not fit the network.
        ExportError: if the outputs differ by more than 1e-5 of the largest.
        ImportError: if onnx is not installed.
        OSError: if the file cannot be written.
    """
    with evaluating(model):
        content = _content(model, in_shape, fold, spec)
        difference = _difference(content, model, in_shape, spec)
    if difference is not None and not difference <= TOLERANCE:
        raise ExportError(
            f"the file was not written: its outputs in onnxruntime differ from the network's by {difference:.1e} of "
            f"the largest, {TOLERANCE:.0e} is allowed"
        )
    write_atomically(path, content)
    return difference


def _content(model: Module, in_shape: tuple[int, ...], fold: bool, spec: DataSpec | None) -> bytes:
    with needed_for("writing ONNX files"):
        import onnx
        from onnx import TensorProto, helper
    if wrong := {parameter.data.dtype.name for parameter in model.parameters()} - {"float32"}:
        raise ValueError(f"parameters are of {min(wrong)}: export takes float32, convert with .to(dtype=np.float32)")
    pixels = spec is not None and spec.pixels == "uint8"
    graph, x = Graph(fold), "images"
    if spec is not None:
        scale = 1 / np.array(spec.std).reshape(-1, 1, 1)
        factors = scale / spec.white, -scale * np.array(spec.mean).reshape(-1, 1, 1)
        if pixels:
            x = graph.node("Cast", "scaling", x, to=TensorProto.FLOAT)
        for op, factor in zip(("Mul", "Add"), factors, strict=True):
            x = graph.node(op, "scaling", x, factor.astype(np.float32))
    x, out_shape = graph.add(model, "", x, tuple(in_shape))
    graph.node("Identity", "logits", x, output="logits")
    kind = TensorProto.UINT8 if pixels else TensorProto.FLOAT
    proto = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "xpcnn",
            [helper.make_tensor_value_info("images", kind, ["batch", *in_shape])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", *out_shape])],
            graph.arrays,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        producer_name="xpcnn",
        producer_version=__version__,
        ir_version=IR_VERSION,
    )
    if spec is not None:
        helper.set_model_props(proto, {"classes": json.dumps(spec.classes)})
    onnx.checker.check_model(proto, full_check=True)
    return bytes(proto.SerializeToString())


def _difference(content: bytes, model: Module, in_shape: tuple[int, ...], spec: DataSpec | None) -> float | None:
    """Return how far onnxruntime's outputs are from the network's, relative to the largest; None without it."""
    try:
        import onnxruntime
    except ImportError:
        return None
    rng = np.random.default_rng(0)
    if spec is not None and spec.pixels == "uint8":
        images: HostArray = rng.integers(0, 256, (_IMAGES, *in_shape), np.uint8)
    else:
        images = rng.standard_normal((_IMAGES, *in_shape)).astype(np.float32)
    x: Any = model.device.asarray(images)
    if spec is not None:
        x = Normalize(spec.mean, spec.std, white=spec.white, device=model.device)(x)
    expected = to_host(model(x))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"images": images})
    difference = float(np.abs(found - expected).max()) / (float(np.abs(expected).max()) or 1.0)
    return difference if isfinite(difference) else float("inf")
