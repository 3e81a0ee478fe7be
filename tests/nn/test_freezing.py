"""Frozen modules: PyTorch's gradients for the rest, no kernel for theirs, and weights and averages that do not move."""

import numpy as np
import pytest
from helpers import assert_close
from inputs import refused
from pytorch import single_threaded_torch
from torchvision_networks import theirs_mobilenet_v2, theirs_resnet18

from xpcnn import functional as F
from xpcnn.models import convnext, mobilenet_v2, resnet18
from xpcnn.nn import (
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    CrossEntropyLoss,
    GlobalAvgPool2d,
    GroupNorm,
    LayerNorm2d,
    Linear,
    PositionBias,
    ReLU,
    Sequential,
)
from xpcnn.optim import AdamW
from xpcnn.testing import check_gradients
from xpcnn.training import Checkpoint, CheckpointError, Trainer

OURS = {
    "resnet18": lambda: resnet18((3, 33, 33), 5, width=4, dtype=np.float64),
    "mobilenet_v2": lambda: mobilenet_v2((3, 33, 33), 5, width_mult=0.25, dropout=0, dtype=np.float64),
}
THEIRS = {"resnet18": theirs_resnet18, "mobilenet_v2": theirs_mobilenet_v2}


@pytest.mark.parametrize(
    ("name", "frozen"),
    [
        ("resnet18", ["conv1", "bn1", "layer1", "layer2"]),
        ("resnet18", ["layer3"]),  # with layers below that learn: the gradient passes through
        ("resnet18", ["layer2.0.downsample", "fc"]),
        ("mobilenet_v2", ["features"]),
        ("mobilenet_v2", ["features.3", "features.5.conv.1.1"]),
    ],
)
def test_gradients_of_the_rest_are_pytorchs(name, frozen, rng):
    """PyTorch's with requires_grad False, and the frozen batch norms in evaluation mode."""
    torch = single_threaded_torch()
    ours, theirs = OURS[name](), THEIRS[name](torch, 3, 33, 33, 5).double().train()
    for key, value in theirs.state_dict().items():
        if key.endswith("running_var"):
            value.copy_(torch.tensor(rng.uniform(0.5, 2, value.shape)))
    ours.load_state_dict(theirs.state_dict())
    modules = dict(ours.named_modules())
    for part in frozen:
        modules[part].freeze()
        module = theirs.get_submodule(part).requires_grad_(False)
        for norm in module.modules():
            if isinstance(norm, torch.nn.BatchNorm2d):
                norm.eval()
    x, labels = rng.normal(size=(4, 3, 33, 33)), rng.integers(0, 5, 4)
    expected = theirs(torch.tensor(x))
    torch.nn.functional.cross_entropy(expected, torch.tensor(labels)).backward()
    loss, y = CrossEntropyLoss(), ours(x)
    assert_close(y, expected.detach().numpy(), 1e-9, 1e-10)
    loss(y, labels)
    ours.backward(loss.backward(), input_gradient=False)
    gradients = {key: parameter.grad for key, parameter in theirs.named_parameters()}
    assert any(gradient is None for gradient in gradients.values())
    for key, parameter in ours.named_parameters():
        assert (parameter.grad is None) == (gradients[key] is None), key
        if parameter.grad is not None:
            assert_close(parameter.grad, gradients[key].numpy(), 1e-8, 1e-10)
    for key, value in theirs.state_dict().items():
        assert_close(ours.state_dict()[key], value.numpy(), 1e-9, 1e-12)


@pytest.mark.parametrize("make", [BatchNorm1d, BatchNorm2d])
def test_a_frozen_batch_norms_backward_pass(make, device, rng):
    """In one direction, against differences; with and without weight and bias."""
    for affine in (True, False):
        norm = make(3, affine=affine, dtype=np.float64)
        norm.running_var.data[...] = [0.5, 2, 3]
        norm.to(device).freeze()
        x = rng.normal(size=(4, 3, 5, 6) if make is BatchNorm2d else (4, 3))
        check_gradients(Sequential(norm), device.asarray(x))
        assert int(norm.num_batches_tracked.data) == 0


def test_no_kernel_runs_for_what_is_frozen(rng, monkeypatch):
    """Neither that of a frozen layer's own gradients, nor any below the first layer that learns."""
    model = Sequential(
        Conv2d(3, 4, 3),
        BatchNorm2d(4),
        ReLU(),
        Conv2d(4, 4, 3),
        GroupNorm(2, 4),
        LayerNorm2d(4),
        GlobalAvgPool2d(),
        Linear(4, 2),
    )
    calls = []
    names = [name for name in F.__all__ if name.endswith(("gradient", "gradients", "backward"))]
    for name in names:
        original = getattr(F, name)

        def counted(*args, original=original, name=name, **options):
            calls.append((name, options.get("parameter_gradients")))
            return original(*args, **options)

        monkeypatch.setattr(F, name, counted)

    def step():
        calls.clear()
        y = model(rng.normal(size=(2, 3, 8, 8)).astype(np.float32))
        model.backward(np.ones_like(y), input_gradient=False)
        return [name for name, _ in calls]

    for module in list(model)[:-1]:
        module.freeze()
    assert step() == ["linear_parameter_gradients"]
    model[0].unfreeze()
    found = step()
    assert found.count("conv2d_parameter_gradients") == 1  # of the first; the second only passes on
    assert found.count("conv2d_input_gradient") == 1
    assert "batch_norm_backward" not in found
    assert "batch_norm_fixed_backward" in found
    assert {flag for name, flag in calls if name in ("group_norm_backward", "layer_norm2d_backward")} == {False}
    model.freeze()
    assert step() == []


def test_every_layer_with_parameters_leaves_them(device, rng):
    layers = [PositionBias((3, 6, 6)), convnext((3, 32, 32), 2, depths=(1, 1), widths=(4, 6))]
    for layer, size in zip(layers, (6, 32), strict=True):
        layer.to(device).freeze()
        y = layer(device.asarray(rng.normal(size=(2, 3, size, size)), np.float32))
        assert layer.backward(y * 0 + 1) is not None  # the input's gradient is there
        assert all(parameter.grad is None for parameter in layer.parameters())
        parameter = next(layer.parameters())
        parameter.add_gradient(parameter.data)  # as a layer or loss of the user's own does
        assert parameter.grad is None
        layer.unfreeze()
        y = layer(device.asarray(rng.normal(size=(2, 3, size, size)), np.float32))
        layer.backward(y * 0 + 1)
        assert all(parameter.grad is not None for parameter in layer.parameters())


def trained(batches, epochs, frozen=()):
    model = resnet18((3, 33, 33), 2, width=4)
    for name in frozen:
        model[name].freeze()
    trainer = Trainer(model, AdamW(model.named_parameters(), 0.01, weight_decay=0.1))
    return trainer, lambda: trainer.fit(batches, epochs)


def test_optimizers_skip_them_and_checkpoints_keep_them(rng, tmp_path):
    """Weight decay and momentum from before change nothing either; a resumed trainer ends with the same bits."""
    batches = [(rng.normal(size=(4, 3, 33, 33)).astype(np.float32), np.array([0, 1, 1, 0])) for _ in range(2)]
    trainer, fit = trained(batches, 1)
    fit()
    before = {name: array.copy() for name, array in trainer.model.state_dict().items()}
    frozen = ["conv1", "bn1", "layer1", "layer3"]
    for name in frozen:
        trainer.model[name].freeze()
    trainer.fit(batches, 2)
    for name, array in trainer.model.state_dict().items():
        same = np.array_equal(array, before[name])
        assert same == name.startswith(tuple(frozen)), name
    trainer.checkpoint().save(tmp_path / "a.safetensors")
    other, fit = trained(batches, 3, frozen=["fc"])
    other.resume(Checkpoint.load(tmp_path / "a.safetensors"))
    assert other.model.frozen_modules == trainer.model.frozen_modules
    assert not other.model["fc"].frozen
    fit()
    trainer.fit(batches, 3)
    for name, array in trainer.model.state_dict().items():
        np.testing.assert_array_equal(other.model.state_dict()[name], array, err_msg=name)


def test_checkpoints_that_name_something_else(rng):
    trainer, _ = trained([], 1)
    checkpoint = trainer.checkpoint()
    for names in (["elsewhere"], "fc", [3]):
        checkpoint.info["frozen"] = names
        with refused("frozen" if names != ["elsewhere"] else "elsewhere", error=(CheckpointError, ValueError)):
            trainer.resume(checkpoint)
