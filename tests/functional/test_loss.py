"""Softmax cross-entropy against slow loops, numeric gradients and PyTorch, and at its edges."""

import numpy as np
import pytest
import reference
from helpers import assert_close, to_device
from inputs import MEMORY, choose, in_memory, noted, refused
from pytorch import single_threaded_torch
from strict_xp import DEVICE

from xpcnn.functional import cross_entropy_backward, cross_entropy_forward, hinge_forward
from xpcnn.nn import CrossEntropyLoss


def test_equals_the_loops_and_numeric_gradients(device, rng):
    logits, labels = 3 * rng.normal(size=(6, 5)), rng.integers(0, 5, 6)
    loss, cache = cross_entropy_forward(*map(device.asarray, (logits, labels)))
    assert_close(loss, reference.cross_entropy(logits, labels), 1e-10, 0, device=device)
    gradient = cross_entropy_backward(cache)
    assert_close(gradient, reference.cross_entropy_backward(logits, labels), 1e-10, 1e-15, device=device)
    numeric = reference.numeric_gradient(lambda x: reference.cross_entropy(x, labels), logits, 1.0)
    assert_close(gradient, numeric, 1e-7, 1e-10, device=device)


def test_equals_pytorch(device, rng, monkeypatch):
    torch = single_threaded_torch()
    for i, draw_rng in enumerate(rng.spawn(20)):
        monkeypatch.setattr(device, "tile_bytes", choose(draw_rng, 100, 5000, 1 << 20))  # the classes in blocks, or one
        N, classes = choose(draw_rng, 1, 2, 33), choose(draw_rng, 1, 2, 10, 300)
        scale, memory = choose(draw_rng, 0.1, 3, 100), choose(draw_rng, *MEMORY)
        with noted(draw=i, N=N, classes=classes, scale=scale, memory=memory):
            logits = (scale * draw_rng.normal(size=(N, classes))).astype(np.float32)
            labels = draw_rng.integers(0, classes, N)
            tensor = torch.tensor(logits, requires_grad=True)
            expected = torch.nn.functional.cross_entropy(tensor, torch.tensor(labels))
            expected.backward()
            loss, cache = cross_entropy_forward(in_memory(device, logits, memory), device.asarray(labels))
            assert_close(loss, expected.detach().numpy(), 2e-6, 1e-6, device=device)
            assert_close(cross_entropy_backward(cache), tensor.grad.numpy(), 1e-5, 1e-7, device=device)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exact_for_huge_logits(dtype, device):
    row = [1e4, -1e4, 0, 1e4]
    for label, expected in enumerate([np.log(2), 2e4 + np.log(2), 1e4 + np.log(2), np.log(2)]):
        loss, cache = cross_entropy_forward(device.asarray([row], dtype), device.asarray(np.array([label])))
        assert_close(loss, expected, 1e-7 if dtype == np.float32 else 1e-15, 0, device=device, dtype=dtype)
        gradient = np.array([[0.5, 0, 0, 0.5]], dtype)
        gradient[0, label] -= 1
        assert_close(cross_entropy_backward(cache), gradient, 0, 0, device=device)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32, np.int64])
def test_labels_of_every_integer_dtype(dtype, device, rng):
    """Also when the dtype cannot count the classes, only the labels."""
    logits, labels = rng.normal(size=(4, 300)), np.array([1, 44, 100, 127])
    loss, cache = cross_entropy_forward(device.asarray(logits), device.asarray(labels, dtype))
    assert_close(loss, reference.cross_entropy(logits, labels), 1e-10, 0, device=device)
    expected = reference.cross_entropy_backward(logits, labels)
    assert_close(cross_entropy_backward(cache), expected, 1e-10, 1e-15, device=device)


@pytest.mark.parametrize(
    ("logits", "labels", "words"),
    [
        ((3, 5), np.zeros(3), ["integer labels", "float64"]),
        ((3, 5), np.zeros(3, bool), ["integer labels", "bool"]),
        ((3, 5), np.zeros(4, int), ["labels (N,)", "(3, 5)", "(4,)"]),
        ((3, 5), np.zeros((3, 5), int), ["labels (N,)", "(3, 5)"]),
        ((3,), np.zeros(3, int), ["logits (N, classes)", "(3,)"]),
    ],
)
def test_errors_say_what_was_expected_and_what_came(logits, labels, words, device):
    with refused(*words):
        cross_entropy_forward(device.asarray(np.zeros(logits, np.float32)), device.asarray(labels))


@pytest.mark.parametrize("ignore_index", [-100, 2, 255])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ignored", ["some", "none", "all"])
def test_ignored_samples_as_in_pytorch(ignore_index, label_smoothing, weighted, ignored, device, rng, monkeypatch):
    torch = single_threaded_torch()
    monkeypatch.setattr(device, "tile_bytes", 100)  # two blocks of classes
    logits = (3 * rng.normal(size=(9, 5))).astype(np.float32)
    labels = rng.integers(0, 5, 9)
    if ignored == "some":
        labels[[0, 3, 8]] = ignore_index
    elif ignored == "all":
        labels[:] = ignore_index
    weight = rng.uniform(0.1, 3, 5) if weighted else None
    tensor = torch.tensor(logits, requires_grad=True)
    expected = torch.nn.functional.cross_entropy(
        tensor,
        torch.tensor(labels),
        None if weight is None else torch.tensor(weight.astype(np.float32)),
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
    )
    expected.backward()
    options = {"ignore_index": ignore_index, "label_smoothing": label_smoothing}
    arrays = to_device(device, logits, labels, weight)  # the weight in float64
    with np.errstate(invalid="ignore"):  # the mean over no sample
        loss, cache = cross_entropy_forward(*arrays, **options)
        by_layer = CrossEntropyLoss(weight, **options)(arrays[0], labels)
    gradient = cross_entropy_backward(cache)
    if np.isfinite(expected.item()):
        assert_close(gradient, tensor.grad.numpy(), 1e-5, 1e-7, device=device)
    else:
        assert not device.to_host(gradient).any()
    for found in (loss, by_layer):
        assert_close(found, expected.detach().numpy(), 2e-6, 1e-6, device=device)


def test_other_labels_out_of_range_stay_refused_on_the_host(rng):
    logits, labels = rng.normal(size=(4, 3)), np.array([0, -100, 2, 3])
    with refused("from 0 to 2", "0 to 3"):
        cross_entropy_forward(logits, labels)
    with refused("from 0 to 2", "-100 to 2"):
        cross_entropy_forward(logits, np.array([0, -100, 2, -1]), ignore_index=-1)
    with refused("from 0 to 2", "-100"):
        hinge_forward(logits, np.array([0, -100, 2, 1]))


def test_a_label_out_of_range_makes_the_loss_nan_on_a_gpu():
    logits = DEVICE.asarray(np.ones((3, 4), np.float32))
    for labels, finite in (([0, 1, 4], False), ([0, 1, -1], False), ([0, 1, -100], True)):
        loss, _ = cross_entropy_forward(logits, DEVICE.asarray(np.array(labels)))
        assert np.isfinite(DEVICE.to_host(loss)) == finite


@pytest.mark.parametrize("margin", [1.0, np.float64(1)])
def test_a_margin_of_float64_keeps_the_loss_float32(margin, device):
    arrays = to_device(device, np.ones((3, 4), np.float32), np.array([0, 1, 2]))
    assert hinge_forward(*arrays, margin=margin)[0].dtype == np.float32
