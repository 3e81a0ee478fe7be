"""The fully connected layer against slow loops, numeric gradients and PyTorch."""

import numpy as np
import pytest
import reference
from helpers import assert_close, to_device
from inputs import MEMORY, choose, in_memory, noted, refused
from pytorch import single_threaded_torch

from xpcnn.functional import linear_backward, linear_forward


@pytest.mark.parametrize("has_bias", [True, False])
def test_equals_the_loops_and_numeric_gradients(has_bias, device, rng):
    x, weight, dy = rng.normal(size=(4, 5)), rng.normal(size=(3, 5)), rng.normal(size=(4, 3))
    bias = rng.normal(size=3) if has_bias else None
    y, cache = linear_forward(*to_device(device, x, weight, bias))
    assert_close(y, reference.linear(x, weight, bias), 1e-10, 1e-13, device=device)
    dx, dweight, dbias = linear_backward(device.asarray(dy), cache)
    expected = reference.linear_backward(dy, x, weight)
    for ours, theirs, of, at in (
        (dx, expected[0], lambda x: reference.linear(x, weight, bias), x),
        (dweight, expected[1], lambda weight: reference.linear(x, weight, bias), weight),
        (dbias, expected[2], lambda bias: reference.linear(x, weight, bias), bias),
    ):
        if at is None:
            assert ours is None
        else:
            assert_close(ours, theirs, 1e-10, 1e-13, device=device)
            assert_close(ours, reference.numeric_gradient(of, at, dy), 1e-7, 1e-9, device=device)
    assert linear_backward(device.asarray(dy), cache, input_gradient=False)[0] is None


def test_equals_pytorch(device, rng):
    torch = single_threaded_torch()
    for i, draw_rng in enumerate(rng.spawn(20)):
        # The largest is shared between threads, in blocks of rows that are not all of one size.
        N, features, out = choose(draw_rng, (1, 1, 1), (33, 7, 1), (1, 50, 10), (5, 3, 8), (130, 205, 83))
        memory, has_bias = choose(draw_rng, *MEMORY), bool(draw_rng.random() < 0.7)
        with noted(draw=i, N=N, features=features, out=out, memory=memory, has_bias=has_bias):
            shapes = ((N, features), (out, features), (out,) if has_bias else None, (N, out))
            x, weight, bias, dy = (
                None if shape is None else draw_rng.normal(size=shape).astype(np.float32) for shape in shapes
            )
            tensors = [None if a is None else torch.tensor(a, requires_grad=True) for a in (x, weight, bias)]
            expected = torch.nn.functional.linear(*tensors)
            expected.backward(torch.tensor(dy))
            y, cache = linear_forward(in_memory(device, x, memory), *to_device(device, weight, bias))
            assert_close(y, expected.detach().numpy(), 1e-5, 3e-5, device=device)
            gradients = linear_backward(in_memory(device, dy, memory), cache)
            for ours, tensor in zip(gradients, tensors, strict=True):
                assert (ours is None) == (tensor is None)
                if tensor is not None:
                    assert_close(ours, tensor.grad.numpy(), 1e-5, 3e-5, device=device)


@pytest.mark.parametrize(
    ("x", "weight", "bias", "dtype", "words"),
    [
        ((2, 4), (3, 5), (3,), np.float32, ["(N, 5)", "(3, 5)", "(2, 4)"]),
        ((2, 5, 1), (3, 5), (3,), np.float32, ["(N, 5)", "(2, 5, 1)"]),
        ((2, 5), (3, 5), (5,), np.float32, ["bias (3,)", "(5,)"]),
        ((2, 5), (3, 5), (3,), np.float64, ["dtype", "float32", "float64"]),
    ],
)
def test_errors_say_what_was_expected_and_what_came(x, weight, bias, dtype, words, device):
    ones = device.xp.ones
    with refused(*words):
        linear_forward(ones(x, dtype), ones(weight, np.float32), ones(bias, np.float32))
