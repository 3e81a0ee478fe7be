"""ONNX files against the network in onnxruntime: every model, every layer and option, refusals, and pixels as input."""

import json
from functools import partial

import numpy as np
import pytest
from inputs import refused

from xpcnn import nn
from xpcnn.data import DataSpec
from xpcnn.models import MODELS, build_model, convnext
from xpcnn.onnx import ExportError, export
from xpcnn.training import predict

onnx = pytest.importorskip("onnx", reason="needs the onnx extra")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the onnx extra")

SHAPES = {
    "convnext_femto": (3, 64, 64),
    "deep_sigmoid_net": (1, 14, 14),
    "efficientnet_lite0": (3, 65, 64),
    "lenet5": (1, 28, 28),
    "mobilenet_v2": (3, 64, 64),
}
SMALLER = {"resnet18": {"width": 8}, "resnet34": {"width": 8}, "mobilenet_v2": {"width_mult": 0.25}}


def logits(path, images):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"images": images})[0]


def settle(model, in_shape, rng):
    """Give batch norms the averages of some batches, and all parameters other values."""
    for _, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.data[...] = rng.normal(size=module.num_features) * 0.1
            module.running_var.data[...] = rng.uniform(0.5, 2, module.num_features)
    return model.eval()


AFTER_POOLING = {
    "compact_cnn": 2,
    "whitened_cnn": 3,
    "whitened_cnn_small": 3,
}  # batch norms that are not folded into a convolution


@pytest.mark.parametrize(("name", "fold"), [*((name, True) for name in MODELS), ("resnet20", False), ("vgg", False)])
def test_every_model(name, fold, tmp_path, rng):
    """In batches of other lengths than the one at export; the same classes."""
    in_shape = SHAPES.get(name, (3, 32, 32))
    model = settle(build_model(name, in_shape, 10, seed=1, **SMALLER.get(name, {})), in_shape, rng)
    path = tmp_path / "net.onnx"
    assert export(model, path, in_shape, fold=fold) < 1e-5
    images = rng.normal(size=(32, *in_shape)).astype(np.float32)
    expected, found = model(images), np.concatenate([logits(path, part) for part in np.split(images, [1, 12])])
    largest = np.abs(expected).max()
    assert np.abs(found - expected).max() < 1e-5 * largest
    best = np.sort(expected, axis=1)
    clear = best[:, -1] - best[:, -2] > 1e-5 * largest
    np.testing.assert_array_equal(found.argmax(axis=1)[clear], expected.argmax(axis=1)[clear])
    norms = [node for node in onnx.load(path).graph.node if node.op_type == "BatchNormalization"]
    all_norms = sum(isinstance(module, nn.BatchNorm2d) for _, module in model.named_modules())
    assert len(norms) == (AFTER_POOLING.get(name, 0) if fold else all_norms)


LAYERS = {
    "conv": (nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2), (4, 9, 8)),
    "conv, same": (nn.Conv2d(2, 3, 4, padding="same", bias=False), (2, 7, 6)),
    "conv, four sides": (nn.Conv2d(2, 3, 3, stride=2, padding=(0, 1, 0, 1)), (2, 8, 9)),
    "transposed": (
        nn.ConvTranspose2d(4, 6, 3, stride=(2, 3), padding=1, output_padding=(1, 2), groups=2, dilation=(2, 1)),
        (4, 5, 6),
    ),
    "transposed, four sides": (nn.ConvTranspose2d(2, 3, 3, padding=(0, 1, 2, 1), bias=False), (2, 6, 7)),
    "batch norm": (nn.BatchNorm2d(3, eps=1e-3), (3, 4, 5)),
    "batch norm, plain": (nn.BatchNorm1d(5, affine=False), (5,)),
    "batch norm, (N, C, L)": (nn.BatchNorm1d(5), (5, 7)),
    "group norm": (nn.GroupNorm(2, 6, eps=1e-3), (6, 3, 4)),
    "group norm, plain": (nn.GroupNorm(3, 6, affine=False), (6,)),
    "layer norm": (nn.LayerNorm((4, 5)), (3, 4, 5)),
    "layer norm, plain": (nn.LayerNorm(5, elementwise_affine=False), (3, 5)),
    "layer norm 2d": (nn.LayerNorm2d(3, bias=False), (3, 4, 5)),
    "max": (nn.MaxPool2d(3, 2, padding=1, dilation=2), (2, 9, 10)),
    "max, ceil": (nn.MaxPool2d(3, 2, padding=1, ceil_mode=True), (2, 8, 10)),
    "max, ceil, dilated": (nn.MaxPool2d(2, 3, dilation=3, ceil_mode=True), (2, 8, 9)),
    "average": (nn.AvgPool2d((3, 2), 2, padding=(1, 1)), (2, 8, 9)),
    "average, not padded": (nn.AvgPool2d(3, 2, padding=1, count_include_pad=False), (2, 8, 9)),
    "average, ceil": (nn.AvgPool2d(3, 2, padding=1, ceil_mode=True), (2, 8, 10)),
    "average, ceil, not padded": (nn.AvgPool2d(3, 2, padding=1, ceil_mode=True, count_include_pad=False), (2, 8, 10)),
    "adaptive": (nn.AdaptiveAvgPool2d((3, 4)), (2, 7, 9)),
    "adaptive, larger": (nn.AdaptiveAvgPool2d(5), (2, 3, 4)),
    "global": (nn.GlobalAvgPool2d(), (2, 3, 4)),
    "flatten": (nn.Flatten(), (2, 3, 4)),
    "linear": (nn.Linear(5, 3, bias=False), (5,)),
    "dropout": (nn.Dropout(0.5), (5,)),
    "identity": (nn.Identity(), (5,)),
    "position bias": (nn.PositionBias((2, 3, 4)), (2, 3, 4)),
    **{kind.__name__: (kind(), (3, 4, 5)) for kind in (nn.ReLU, nn.ReLU6, nn.Sigmoid, nn.SiLU, nn.Tanh)},
    "leaky": (nn.LeakyReLU(0.3), (3, 4)),
    "elu": (nn.ELU(0.7), (3, 4)),
    "gelu": (nn.GELU(), (3, 4)),
    "gelu, tanh": (nn.GELU("tanh"), (3, 4)),
    "softmax": (nn.Softmax(-2), (3, 4)),
    "residual": (nn.Residual(nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 1), nn.ReLU()), (2, 4, 4)),
    "residual, bare": (nn.Residual(nn.Tanh()), (2, 4)),
    "two convolutions before one norm": (
        nn.Sequential(nn.Conv2d(2, 3, 1), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)),
        (2, 3, 3),
    ),
    "a norm after a pool": (nn.Sequential(nn.Conv2d(2, 3, 1), nn.MaxPool2d(2), nn.BatchNorm2d(3)), (2, 4, 4)),
    "convnext": (convnext((3, 32, 32), 4, depths=(1, 1), widths=(4, 6)), (3, 32, 32)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer(name, tmp_path, rng):
    layer, in_shape = LAYERS[name]
    for parameter in layer.parameters():
        parameter.data = rng.normal(size=parameter.data.shape).astype(np.float32)
    settle(layer, in_shape, rng)
    assert export(layer, tmp_path / "net.onnx", in_shape) < 1e-5
    x = 3 * rng.normal(size=(5, *in_shape)).astype(np.float32)
    expected = layer(x)
    found = logits(tmp_path / "net.onnx", x)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_no_layer_is_forgotten():
    """Each module of xpcnn.nn that can be called is in the table above, or in a network there."""
    bases = {nn.Module, nn.Activation, nn.AverageViews}  # the last is for evaluation
    kinds = {kind for kind in vars(nn).values() if isinstance(kind, type) and issubclass(kind, nn.Module)} - bases
    models = [layer for layer, _ in LAYERS.values()] + [build_model("resnet18", (3, 32, 32), 2, width=4)]
    assert kinds <= {type(module) for model in models for _, module in model.named_modules()}


class Doubled(nn.ReLU):
    """A layer of one's own."""


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (nn.Sequential(a=nn.ReLU(), b=nn.Sequential(c=Doubled())), ["b.c (Doubled)", "of your own"]),
        (nn.Sequential(a=nn.BatchNorm2d(3, track_running_stats=False)), ["a (BatchNorm2d)", "other images"]),
        (nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2, track_running_stats=False)), ["1 (BatchNorm2d)"]),
        (nn.Softmax(0), ["the network (Softmax)", "over the batch"]),
        (nn.Softmax(-4), ["over the batch"]),
        (nn.Sequential(a=nn.Conv2d(4, 2, 1)), ["a (Conv2d)", "4"]),
        (nn.Linear(3, 2, dtype=np.float64), ["float64", "float32"]),
    ],
)
def test_refusals_name_the_layer_and_why(layer, words, tmp_path):
    with refused(*words):
        export(layer, tmp_path / "net.onnx", (3, 4, 4))
    assert not [*tmp_path.iterdir()]
    assert layer.training  # its mode is as before


@pytest.mark.parametrize("pixels", ["uint8", "float"])
def test_pixels_in_and_class_names_out(tmp_path, rng, pixels):
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    spec = DataSpec((3, 16, 16), ("cat", "dög"), mean, std, pixels)
    model = build_model("small_cnn", spec.shape, 2)
    assert export(model, tmp_path / "net.onnx", spec.shape, spec=spec) < 1e-5
    images = rng.integers(0, 256, (3, *spec.shape), np.uint8)
    if pixels == "float":
        images = images.astype(np.float32) / 255
    found = logits(tmp_path / "net.onnx", images).astype(np.float64)
    found = np.exp(found) / np.exp(found).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, predict(model, images, spec), atol=1e-5)
    (entry,) = onnx.load(tmp_path / "net.onnx").metadata_props
    assert (entry.key, json.loads(entry.value)) == ("classes", ["cat", "dög"])


def test_a_difference_is_found_and_nothing_is_written(tmp_path, monkeypatch):
    """A planted fault: LeakyReLU with another slope."""
    from xpcnn.onnx import graph

    path = tmp_path / "net.onnx"
    path.write_text("as before")
    wrong = partial(lambda graph, layer, name, x, shape: graph.node("LeakyRelu", name, x, alpha=0.011))
    monkeypatch.setitem(graph._LAYERS, nn.LeakyReLU, wrong)
    with refused("not written", "onnxruntime", "1e-05", error=ExportError):
        export(nn.LeakyReLU(0.01), path, (3, 4))
    assert path.read_text() == "as before"
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    assert export(nn.LeakyReLU(0.01), path, (3, 4)) is None  # nothing to compare with
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with refused("writing ONNX files needs onnx", "pip install", error=ImportError):
        export(nn.LeakyReLU(0.01), path, (3, 4))
