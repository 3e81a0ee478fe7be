"""Max pooling against slow loops, numeric gradients and PyTorch, with ties everywhere and padding that never wins."""

import numpy as np
import pytest
import reference
from helpers import assert_close
from inputs import MEMORY, as_int_or_pair, choose, draw_pair, draw_size, in_memory, noted, refused
from pytorch import single_threaded_torch

from xpcnn.functional import max_pool2d_backward, max_pool2d_forward

# The shape of the input, the window and the options.
CASES = {
    "plain": ((2, 3, 4, 6), (2, 2), {"stride": (2, 2)}),
    "overlapping": ((3, 2, 5, 6), (3, 2), {"stride": (1, 1)}),
    "pixels left over": ((2, 2, 5, 8), (2, 3), {"stride": (2, 3)}),
    "padding": ((2, 2, 5, 4), (3, 4), {"stride": (2, 1), "padding": (1, 2)}),
    "four sides": ((2, 2, 4, 5), (4, 3), {"stride": (1, 2), "padding": (0, 1, 2, 1)}),
    "same": ((2, 2, 4, 5), (2, 3), {"stride": (1, 1), "padding": "same"}),
    "dilation": ((2, 2, 7, 6), (2, 3), {"stride": (1, 2), "dilation": (3, 2), "padding": (1, 1)}),
    "large window": ((1, 2, 20, 21), (18, 17), {"stride": (1, 2)}),
    "many images": ((33, 1, 4, 4), (2, 2), {"stride": (2, 2)}),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_the_loops_exactly_in_ties(case, device, rng):
    shape, kernel, options = CASES[case]
    # Few different numbers, all negative: ties in most windows, and zeros of the padding would win.
    x = rng.integers(-4, -1, shape).astype(np.float64)
    expected_y, winners = reference.max_pool2d(x, kernel, **options)
    dy = rng.normal(size=expected_y.shape)
    y, cache = max_pool2d_forward(device.asarray(x), kernel, **options)
    assert_close(y, expected_y, 0, 0, device=device)
    dx = max_pool2d_backward(device.asarray(dy), cache)
    assert_close(dx, reference.max_pool2d_backward(dy, x, winners), 1e-12, 1e-13, device=device)


def test_a_maximum_late_in_a_large_window_is_found(device):
    """Offset 299 of 300 needs more than one byte."""
    x = np.zeros((1, 1, 15, 20), np.float32)
    x[..., -1, -1] = 1
    y, cache = max_pool2d_forward(device.asarray(x), (15, 20))
    assert_close(y, np.ones((1, 1, 1, 1), np.float32), 0, 0, device=device)
    assert_close(max_pool2d_backward(y, cache), x, 0, 0, device=device)


@pytest.mark.parametrize(("kernel", "options"), [(2, {}), (3, {"stride": 2, "padding": 1}), (4, {"stride": 1})])
def test_the_gradient_of_nan_goes_where_pytorchs_goes(kernel, options, device, rng):
    torch = single_threaded_torch()
    x = rng.integers(0, 3, (2, 3, 9, 8)).astype(np.float32)
    x[rng.random(x.shape) < 0.3] = np.nan
    x[rng.random(x.shape) < 0.1] = -np.inf
    tensor = torch.tensor(x, requires_grad=True)
    expected = torch.nn.functional.max_pool2d(tensor, kernel, **options)
    dy = rng.normal(size=expected.shape).astype(np.float32)
    expected.backward(torch.tensor(dy))
    y, cache = max_pool2d_forward(device.asarray(x), kernel, **options)
    assert_close(y, expected.detach().numpy(), 0, 0, device=device)
    assert_close(max_pool2d_backward(device.asarray(dy), cache), tensor.grad.numpy(), 1e-6, 1e-6, device=device)


@pytest.mark.parametrize("case", ["overlapping", "four sides", "dilation"])
def test_equals_numeric_gradients(case, device, rng):
    shape, kernel, options = CASES[case]
    x = rng.permutation(np.prod(shape)).reshape(shape) / 10  # no two values close enough for a step to swap them
    y, cache = max_pool2d_forward(device.asarray(x), kernel, **options)
    dy = rng.normal(size=y.shape)

    def output(x):
        return device.to_host(max_pool2d_forward(device.asarray(x), kernel, **options)[0])

    expected = reference.numeric_gradient(output, x, dy, 1e-2)
    assert_close(max_pool2d_backward(device.asarray(dy), cache), expected, 1e-7, 1e-9, device=device)


def draw_case(rng):
    kernel = draw_pair(rng, 1, 5)
    stride = None if rng.random() < 0.3 else draw_pair(rng, 1, 4)
    dilation = choose(rng, (1, 1), draw_pair(rng, 1, 3))
    half_h, half_w = kernel[0] // 2, kernel[1] // 2
    padding = choose(
        rng,
        0,
        "valid",
        "same" if stride == (1, 1) and dilation == (1, 1) else 0,
        (int(rng.integers(half_h + 1)), int(rng.integers(half_w + 1))),
        tuple(int(side) for side in rng.integers(0, [half_w + 1, half_w + 1, half_h + 1, half_h + 1])),
    )
    return {
        "shape": (choose(rng, 1, 3, 33), choose(rng, 1, 2, 5), *draw_size(rng, kernel, padding, dilation)),
        "kernel": kernel,
        "options": {"stride": stride, "padding": padding, "dilation": dilation},
        "memory": choose(rng, *MEMORY),
        "range": choose(rng, (-3, 3), (-9, -6), (-1000, 1000)),
    }


def test_equals_pytorch_exactly(device, rng):
    torch = single_threaded_torch()
    for i, draw_rng in enumerate(rng.spawn(60)):
        case = draw_case(draw_rng)
        with noted(draw=i, **case):
            kernel, options, memory = case["kernel"], case["options"], case["memory"]
            # Small integers: ties abound, and sums of gradients are exact in any order.
            x = draw_rng.integers(*case["range"], case["shape"]).astype(np.float32)
            tensor = torch.tensor(x, requires_grad=True)
            sides = reference.four_sides(options["padding"], kernel, options["dilation"])
            padded = torch.nn.functional.pad(tensor, sides, value=-np.inf)
            expected = torch.nn.functional.max_pool2d(padded, kernel, options["stride"], 0, options["dilation"])
            dy = draw_rng.integers(-9, 10, tuple(expected.shape)).astype(np.float32)
            expected.backward(torch.tensor(dy))

            written = options | {"dilation": as_int_or_pair(draw_rng, options["dilation"])}
            y, cache = max_pool2d_forward(in_memory(device, x, memory), as_int_or_pair(draw_rng, kernel), **written)
            assert_close(y, expected.detach().numpy(), 0, 0, device=device)
            dx = max_pool2d_backward(in_memory(device, dy, memory), cache)
            assert_close(dx, tensor.grad.numpy(), 0, 0, device=device)


def test_shared_between_threads_it_is_the_same(rng):
    """Large enough for several tasks, which the draws above are not."""
    torch = single_threaded_torch()
    x = rng.integers(-3, 3, (64, 6, 28, 28)).astype(np.float32)
    tensor = torch.tensor(x, requires_grad=True)
    expected = torch.nn.functional.max_pool2d(tensor, 2)
    expected.backward(expected.detach())
    y, cache = max_pool2d_forward(x, 2)
    assert np.array_equal(y, expected.detach().numpy())
    assert np.array_equal(max_pool2d_backward(y, cache), tensor.grad.numpy())


def test_minus_infinity_still_takes_the_gradient(device):
    """As in PyTorch, the first pixel wins where all are minus infinity, even with padding before it."""
    x = device.asarray(np.full((1, 1, 2, 2), -np.inf, np.float32))
    y, cache = max_pool2d_forward(x, 2, stride=1, padding=1)
    assert_close(y, np.full((1, 1, 3, 3), -np.inf, np.float32), device=device)
    dx = max_pool2d_backward(device.asarray(np.ones((1, 1, 3, 3), np.float32)), cache)
    assert_close(dx, np.array([[[[4, 2], [2, 1]]]], np.float32), 0, 0, device=device)


def test_nan_comes_through(device):
    x = np.zeros((1, 1, 4, 4), np.float32)
    x[0, 0, 1, 2] = np.nan
    y, _ = max_pool2d_forward(device.asarray(x), 2)
    assert_close(y, np.array([[[[0, np.nan], [0, 0]]]], np.float32), device=device)


@pytest.mark.parametrize(
    ("shape", "kernel", "options", "words"),
    [
        ((2, 3, 4), 2, {}, ["(N, C, H, W)", "(2, 3, 4)"]),
        ((1, 1, 4, 4), (3, 2), {"padding": (2, 0)}, ["half the window", "(2, 0)", "3×2"]),
        ((1, 1, 4, 4), (3, 2), {"padding": (0, 2, 0, 0)}, ["half the window", "(0, 2, 0, 0)", "3×2"]),
        ((1, 1, 2, 4), 3, {}, ["3×3", "2×4"]),
        ((1, 1, 4, 4), 0, {}, ["kernel_size", "at least 1", "0"]),
        ((1, 1, 4, 4), 2, {"stride": 0}, ["stride", "at least 1", "0"]),
    ],
)
def test_errors_say_what_was_expected_and_what_came(shape, kernel, options, words, device):
    with refused(*words):
        max_pool2d_forward(device.asarray(np.zeros(shape, np.float32)), kernel, **options)
