"""ReLU against the definition, numeric gradients and PyTorch."""

import numpy as np
import reference
from helpers import assert_close
from inputs import MEMORY, choose, in_memory, noted
from pytorch import single_threaded_torch

from xpcnn.functional import relu_backward, relu_forward


def test_equals_the_definition_also_at_zero(device, rng):
    x = rng.integers(-2, 3, (3, 2, 4, 5)).astype(np.float64)
    dy = rng.normal(size=x.shape)
    y, cache = relu_forward(device.asarray(x))
    assert_close(y, reference.relu(x), 0, 0, device=device)
    dx = relu_backward(device.asarray(dy), cache)
    assert_close(dx, reference.relu_backward(dy, x), 0, 0, device=device)
    shifted = x + 0.5  # away from the corner at 0
    expected = reference.numeric_gradient(reference.relu, shifted, dy)
    dx = relu_backward(device.asarray(dy), relu_forward(device.asarray(shifted))[1])
    assert_close(dx, expected, 1e-7, 1e-9, device=device)


def test_equals_pytorch(device, rng):
    torch = single_threaded_torch()
    for i, draw_rng in enumerate(rng.spawn(20)):
        # From a single number to more than one thread's share.
        shape = choose(draw_rng, (1, 1), (33, 7), (5, 3, 1, 4), (64, 10, 15, 16))
        memory = choose(draw_rng, *MEMORY)
        with noted(draw=i, shape=shape, memory=memory):
            x, dy = (draw_rng.normal(size=shape).astype(np.float32) for _ in range(2))
            tensor = torch.tensor(x, requires_grad=True)
            expected = torch.relu(tensor)
            expected.backward(torch.tensor(dy))
            y, cache = relu_forward(in_memory(device, x, memory))
            assert_close(y, expected.detach().numpy(), 0, 0, device=device)
            dx = relu_backward(in_memory(device, dy, choose(draw_rng, *MEMORY)), cache)
            assert_close(dx, tensor.grad.numpy(), 0, 0, device=device)


def test_nan_comes_through(device):
    y, _ = relu_forward(device.asarray(np.array([[np.nan, -np.inf, np.inf]], np.float32)))
    assert_close(y, np.array([[np.nan, 0, np.inf]], np.float32), device=device)
