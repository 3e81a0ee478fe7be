"""Softmax cross-entropy against slow loops, numeric gradients and PyTorch, and at its edges."""

import numpy as np
import pytest
import reference
from helpers import assert_close
from inputs import MEMORY, choose, in_memory, noted, refused
from pytorch import single_threaded_torch

from xpcnn.functional import cross_entropy_backward, cross_entropy_forward


def test_equals_the_loops_and_numeric_gradients(device, rng):
    logits, labels = 3 * rng.normal(size=(6, 5)), rng.integers(0, 5, 6)
    loss, cache = cross_entropy_forward(*map(device.asarray, (logits, labels)))
    assert_close(loss, reference.cross_entropy(logits, labels), 1e-10, 0, device=device)
    gradient = cross_entropy_backward(cache)
    assert_close(gradient, reference.cross_entropy_backward(logits, labels), 1e-10, 1e-15, device=device)
    numeric = reference.numeric_gradient(lambda x: reference.cross_entropy(x, labels), logits, 1.0)
    assert_close(gradient, numeric, 1e-7, 1e-10, device=device)


def test_equals_pytorch(device, rng):
    torch = single_threaded_torch()
    for i, draw_rng in enumerate(rng.spawn(20)):
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
