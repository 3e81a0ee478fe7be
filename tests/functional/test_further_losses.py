"""Losses against slow loops, numeric gradients and PyTorch, for huge logits, and with an L2 penalty."""

import numpy as np
import pytest
import reference
import reference_layers
from helpers import assert_close, to_device
from inputs import MEMORY, choose, in_memory, noted, refused
from pytorch import single_threaded_torch

from xpcnn.functional import cross_entropy_forward
from xpcnn.models import three_layer_net
from xpcnn.nn import (
    BatchNorm2d,
    BCEWithLogitsLoss,
    Conv2d,
    ConvTranspose2d,
    CrossEntropyLoss,
    Flatten,
    HingeLoss,
    L2Penalty,
    LayerNorm,
    Linear,
    MSELoss,
    PositionBias,
    Sequential,
)

WEIGHT = np.array([0.5, 2.0, 0.0, 1.0, 3.0])
LABELLED = {
    "smoothed": (
        lambda: CrossEntropyLoss(label_smoothing=0.3),
        lambda x, t: reference_layers.cross_entropy(x, t, None, 0.3),
    ),
    "weighted": (lambda: CrossEntropyLoss(WEIGHT), lambda x, t: reference_layers.cross_entropy(x, t, WEIGHT)),
    "weighted and smoothed": (
        lambda: CrossEntropyLoss(WEIGHT, label_smoothing=0.3),
        lambda x, t: reference_layers.cross_entropy(x, t, WEIGHT, 0.3),
    ),
    "weights in a list": (
        lambda: CrossEntropyLoss(WEIGHT.tolist()),
        lambda x, t: reference_layers.cross_entropy(x, t, WEIGHT),
    ),
    "hinge": (HingeLoss, lambda x, t: reference_layers.hinge(x, t, 1.0)),
    "hinge, margin": (lambda: HingeLoss(2.5), lambda x, t: reference_layers.hinge(x, t, 2.5)),
}
VALUED = {
    "squares": (MSELoss, reference_layers.mean_squared_error),
    "binary": (BCEWithLogitsLoss, reference_layers.binary_cross_entropy),
}


def check(loss, loops, output, target, device):
    value = loss(*to_device(device, output, target))
    assert_close(value, loops(output, target), 1e-10, 0, device=device)
    gradient = loss.backward()
    numeric = reference.numeric_gradient(lambda x: loops(x, target), output, 1.0)
    assert_close(gradient, numeric, 1e-7, 1e-10, device=device)


@pytest.mark.parametrize("name", LABELLED)
def test_equals_the_loops_and_numeric_gradients(name, device, rng):
    make, loops = LABELLED[name]
    for labels in ([0, 1, 4, 3, 1, 0], [2, 1]):  # class 2 has the weight 0
        check(make(), loops, 3 * rng.normal(size=(len(labels), 5)), np.array(labels), device)


@pytest.mark.parametrize("tile_bytes", [100, 1 << 20])  # in pieces, and in one
@pytest.mark.parametrize("shape", [(6, 1), (3, 5), (2, 3, 4, 2)])
@pytest.mark.parametrize("name", VALUED)
def test_of_values_equals_the_loops_and_numeric_gradients(name, shape, tile_bytes, device, rng, monkeypatch):
    monkeypatch.setattr(device, "tile_bytes", tile_bytes)
    make, loops = VALUED[name]
    check(make(), loops, 3 * rng.normal(size=shape), rng.random(shape), device)


def test_equals_pytorch(device, rng):
    torch = single_threaded_torch()
    for i, draw_rng in enumerate(rng.spawn(40)):
        N, classes = choose(draw_rng, 1, 2, 33), choose(draw_rng, 2, 10, 100)
        scale, memory = choose(draw_rng, 0.1, 3, 100), choose(draw_rng, *MEMORY)
        weight = draw_rng.random(classes).astype(np.float32) if draw_rng.random() < 0.5 else None
        smoothing, margin = choose(draw_rng, 0.0, 0.1, float(draw_rng.random()), 1.0), float(3 * draw_rng.random())
        with noted(draw=i, N=N, classes=classes, scale=scale, memory=memory, weight=weight, smoothing=smoothing):
            output = (scale * draw_rng.normal(size=(N, classes))).astype(np.float32)
            labels, target = draw_rng.integers(0, classes, N), draw_rng.random((N, classes)).astype(np.float32)
            class_weight = None if weight is None else torch.tensor(weight)
            margins = torch.nn.MultiMarginLoss(margin=margin)
            for ours, theirs, at in (
                (
                    CrossEntropyLoss(weight, label_smoothing=smoothing),
                    torch.nn.CrossEntropyLoss(class_weight, label_smoothing=smoothing),
                    labels,
                ),
                # PyTorch's divides by the number of classes, this one does not.
                (HingeLoss(margin), lambda x, t, margins=margins: x.shape[1] * margins(x, t), labels),
                (MSELoss(), torch.nn.MSELoss(), target),
                (BCEWithLogitsLoss(), torch.nn.BCEWithLogitsLoss(), target),
            ):
                tensor = torch.tensor(output, requires_grad=True)
                expected = theirs(tensor, torch.tensor(at))
                expected.backward()
                loss = ours(in_memory(device, output, memory), device.asarray(at))
                assert_close(loss, expected.detach().numpy(), 5e-6, 2e-6, device=device)
                atol = 2e-6 * max(0.1, tensor.grad.abs().max().item())
                assert_close(ours.backward(), tensor.grad.numpy(), 1e-5, atol, device=device)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exact_for_huge_logits(dtype, device):
    row, labels = np.array([[1e4, -1e4, 0, 1e4]], dtype), np.array([1])
    rtol = 1e-6 if dtype == np.float32 else 1e-14
    smoothed = CrossEntropyLoss(label_smoothing=0.2)
    # 0.8 · 2e4 for the label, and 0.05 · (0 + 2e4 + 1e4 + 0) spread over all.
    found = smoothed(*to_device(device, row, labels))
    assert_close(found, 17_500 + np.log(2), rtol, 0, device=device, dtype=dtype)
    assert_close(smoothed.backward(), np.array([[0.45, -0.85, -0.05, 0.45]], dtype), rtol, rtol, device=device)
    hinge = HingeLoss()
    assert_close(hinge(*to_device(device, row, labels)), 50_003.0, 0, 0, device=device, dtype=dtype)
    assert_close(hinge.backward(), np.array([[1, -3, 1, 1]], dtype), 0, 0, device=device)
    binary, target = BCEWithLogitsLoss(), np.array([[1, 1, 0.5, 0]], dtype)
    found = binary(*to_device(device, row, target))
    assert_close(found, (2e4 + np.log(2)) / 4, rtol, 0, device=device, dtype=dtype)
    assert_close(binary.backward(), np.array([[0, -0.25, 0, 0.25]], dtype), 0, 0, device=device)


def test_an_infinite_logit_of_a_wrong_class_has_no_say(device):
    logits = device.asarray(np.array([[0.0, -np.inf, 0.0]]))
    loss = CrossEntropyLoss([1.0, 5.0, 1.0])
    assert_close(loss(logits, device.asarray(np.array([2]))), np.log(2), 1e-14, device=device)
    assert_close(loss.backward(), np.array([[0.5, 0, -0.5]]), 1e-14, device=device)


def test_a_class_just_at_the_margin_has_no_gradient(device):
    loss = HingeLoss(margin=2.0)
    value = loss(device.asarray(np.array([[3.0, 1.0, 1.5]])), device.asarray(np.array([0])))
    assert_close(value, 0.5, 0, 0, device=device)
    assert_close(loss.backward(), np.array([[-1.0, 0, 1]]), 0, 0, device=device)


def test_nothing_is_read_on_the_host(device, rng):
    """A loss that waited for the device at every step would hold up training."""
    if device.name != "strict":
        pytest.skip("only the make-believe device counts host reads")
    import strict_xp

    output, labels, target = to_device(device, rng.normal(size=(4, 5)), np.array([1, 2, 0, 4]), rng.random((4, 5)))
    weight = device.asarray(WEIGHT)
    with strict_xp.forbid_host_reads():
        for loss, at in (
            (CrossEntropyLoss(weight, label_smoothing=0.1), labels),
            (HingeLoss(), labels),
            (MSELoss(), target),
            (BCEWithLogitsLoss(), target),
        ):
            loss(output, at)
            loss.backward()


# -- L2 penalty --------------------------------------------------------------------------------------------------------


def test_the_three_layer_nets_initial_loss():
    """CS231n: about ln 10 = 2.3026 without regularisation, about 2.51 with a strength of 0.5."""
    rng = np.random.default_rng(0)
    model = three_layer_net(weight_scale=1e-3)
    images, labels = rng.normal(size=(50, 3, 32, 32)).astype(np.float32), rng.integers(10, size=50)
    plain, penalised = CrossEntropyLoss(), L2Penalty(CrossEntropyLoss(), model, 0.5)
    logits = model(images)
    assert plain(logits, labels) == pytest.approx(np.log(10), abs=1e-4)
    assert penalised(logits, labels) == pytest.approx(2.3026 + 0.2062, abs=1e-3)


@pytest.mark.parametrize("make", [CrossEntropyLoss, HingeLoss])
def test_the_penalty_and_its_gradient(make, device, rng):
    """Over the weights of convolutions and linear layers: not biases, not what normalisation scales by."""
    model = Sequential(
        conv=Conv2d(2, 3, 3, padding=1, rng=rng, dtype=np.float64),
        bias=PositionBias((3, 4, 5), dtype=np.float64),
        norm=BatchNorm2d(3, dtype=np.float64),
        up=ConvTranspose2d(3, 2, 2, rng=rng, dtype=np.float64),
        layer=LayerNorm((2, 5, 6), dtype=np.float64),
        flatten=Flatten(),
        fc=Linear(60, 4, rng=rng, dtype=np.float64),
    ).to(device)
    for _, parameter in model.named_parameters():
        parameter.data = device.asarray(rng.normal(size=parameter.data.shape))
    x, labels = to_device(device, rng.normal(size=(3, 2, 4, 5)), np.array([0, 3, 1]))
    plain, penalised = make(), L2Penalty(make(), model, 0.3)
    logits = model(x)
    expected = float(device.to_host(plain(logits, labels)))
    model.backward(plain.backward())
    without = {name: device.to_host(parameter.grad) for name, parameter in model.named_parameters()}

    model.zero_grad()
    value = penalised(model(x), labels)
    model.backward(penalised.backward())
    for name, parameter in model.named_parameters():
        gradient = without[name]
        if name in ("conv.weight", "up.weight", "fc.weight"):
            data = device.to_host(parameter.data)
            expected += 0.5 * 0.3 * np.sum(data**2)
            gradient = gradient + 0.3 * data
        assert_close(parameter.grad, gradient, 1e-10, 1e-12, device=device)
    assert_close(value, expected, 1e-12, 0, device=device)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda: HingeLoss()(np.ones((3, 5)), np.ones(3)), ["integer labels", "float64"]),
        (lambda: MSELoss()(np.ones((3, 5)), np.ones((3, 1))), ["(3, 5)", "(3, 1)"]),
        (lambda: BCEWithLogitsLoss()(np.ones((3, 5)), np.ones(3)), ["(3, 5)", "(3,)"]),
        (lambda: CrossEntropyLoss([1.0, 2.0])(np.ones((3, 5)), np.ones(3, int)), ["weight (5,)", "(2,)"]),
        (lambda: cross_entropy_forward(np.ones((1, 2)), np.ones(1, int), label_smoothing=1.5), ["label_smoothing"]),
        (lambda: L2Penalty(MSELoss(), Sequential(), -1), ["strength", "-1"]),
    ],
)
def test_errors_say_what_was_expected_and_what_came(function, words):
    with refused(*words):
        function()


@pytest.mark.parametrize("make", [HingeLoss, MSELoss, BCEWithLogitsLoss])
def test_a_loss_has_one_gradient_a_call(make):
    with refused(make.__name__, error=RuntimeError):
        make().backward()
