"""Average pooling of all kinds, and windows that reach over the edge, against slow loops and PyTorch."""

import numpy as np
import pytest
import reference
import reference_layers
from helpers import assert_close
from inputs import MEMORY, as_int_or_pair, choose, draw_pair, in_memory, noted, refused
from pytorch import single_threaded_torch

from xpcnn import functional as F
from xpcnn.backend import CPU
from xpcnn.nn import AdaptiveAvgPool2d, AvgPool2d, GlobalAvgPool2d, MaxPool2d

CASES = {
    "plain": ((2, 3, 4, 6), (2, 3), {}),
    "overlapping": ((2, 2, 6, 7), (3, 2), {"stride": (1, 1)}),
    "left over": ((2, 2, 7, 8), (2, 3), {"stride": (3, 3)}),
    "padding counts": ((2, 2, 5, 6), (3, 4), {"stride": (2, 3), "padding": (1, 2)}),
    "padding does not count": ((2, 2, 5, 6), (3, 4), {"padding": (1, 2), "count_include_pad": False}),
    "over the edge": ((2, 2, 6, 8), (3, 3), {"stride": (2, 2), "ceil_mode": True}),
    # Rows: the window would start beyond the image. Columns: it reaches beyond the padding, which does not count.
    "not beyond": ((2, 1, 5, 5), (2, 3), {"stride": (3, 3), "padding": (1, 1), "ceil_mode": True}),
    "over the edge, uncounted": (
        (2, 1, 6, 7),
        (3, 2),
        {"stride": (3, 4), "padding": (1, 0), "ceil_mode": True, "count_include_pad": False},
    ),
    "four sides": ((2, 2, 4, 5), (3, 3), {"stride": (1, 2), "padding": (1, 0, 0, 1)}),
    "many images": ((33, 1, 4, 4), (2, 2), {}),
}


def windows_of(shape, kernel, options):
    stride = options.get("stride", kernel)
    return list(reference_layers.avg_pool2d_windows(*shape[2:], kernel, **options | {"stride": stride}))


@pytest.mark.parametrize("case", CASES)
def test_equals_the_loops(case, device, rng):
    shape, kernel, options = CASES[case]
    windows = windows_of(shape, kernel, options)
    x = rng.normal(size=shape)
    expected = reference_layers.average(x, windows)
    y, cache = F.avg_pool2d_forward(device.asarray(x), kernel, **options)
    assert_close(y, expected, 1e-10, 1e-14, device=device)
    dy = rng.normal(size=expected.shape)
    dx = F.avg_pool2d_backward(device.asarray(dy), cache)
    assert_close(dx, reference_layers.average_backward(dy, x, windows), 1e-10, 1e-14, device=device)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 4), (7, 9), (3, 11)])
def test_adaptive_equals_the_loops(size, device, rng):
    x = rng.normal(size=(2, 3, 5, 8))
    windows = list(reference_layers.adaptive_avg_pool2d_windows(5, 8, *size))
    expected = reference_layers.average(x, windows)
    y, cache = F.adaptive_avg_pool2d_forward(device.asarray(x), size)
    assert_close(y, expected, 1e-10, 1e-14, device=device)
    dy = rng.normal(size=expected.shape)
    dx = F.adaptive_avg_pool2d_backward(device.asarray(dy), cache)
    assert_close(dx, reference_layers.average_backward(dy, x, windows), 1e-10, 1e-14, device=device)


def test_global_equals_the_loops(device, rng):
    x, dy = rng.normal(size=(3, 4, 5, 2)), rng.normal(size=(3, 4))
    y, cache = F.global_avg_pool2d_forward(device.asarray(x))
    windows = list(reference_layers.adaptive_avg_pool2d_windows(5, 2, 1, 1))
    assert_close(y, reference_layers.average(x, windows)[:, :, 0, 0], 1e-10, 1e-14, device=device)
    expected = reference_layers.average_backward(dy[:, :, None, None], x, windows)
    assert_close(F.global_avg_pool2d_backward(device.asarray(dy), cache), expected, 1e-10, 1e-14, device=device)


@pytest.mark.parametrize("kind", ["window", "adaptive", "global"])
def test_equals_numeric_gradients(kind, device, rng):
    forward, backward = {
        "window": (lambda x: F.avg_pool2d_forward(x, (3, 2), stride=2, padding=1), F.avg_pool2d_backward),
        "adaptive": (lambda x: F.adaptive_avg_pool2d_forward(x, (2, 3)), F.adaptive_avg_pool2d_backward),
        "global": (F.global_avg_pool2d_forward, F.global_avg_pool2d_backward),
    }[kind]
    x = rng.normal(size=(2, 2, 5, 4))
    y, cache = forward(device.asarray(x))
    dy = rng.normal(size=y.shape)
    expected = reference.numeric_gradient(lambda x: device.to_host(forward(device.asarray(x))[0]), x, dy, 1e-2)
    assert_close(backward(device.asarray(dy), cache), expected, 1e-7, 1e-9, device=device)


def draw_case(rng):
    kernel = draw_pair(rng, 1, 5)
    stride = None if rng.random() < 0.3 else draw_pair(rng, 1, 5)
    padding = tuple(int(rng.integers(size // 2 + 1)) for size in kernel)
    ceil_mode = bool(rng.random() < 0.6)
    # With ceil_mode also images smaller than the window, as long as a step more would have fitted.
    steps = (stride or kernel) if ceil_mode else (1, 1)
    least = [max(1, k - 2 * p - s + 1) for k, p, s in zip(kernel, padding, steps, strict=True)]
    return {
        "shape": (choose(rng, 1, 3, 33), choose(rng, 1, 2, 5), *(int(rng.integers(low, low + 8)) for low in least)),
        "kernel": kernel,
        "options": {"stride": stride, "padding": padding, "ceil_mode": ceil_mode},
        "count_include_pad": bool(rng.random() < 0.5),
        "memory": choose(rng, *MEMORY),
    }


def against_pytorch(torch, device, rng, memory, x, name, size, options, *, exact=False):
    """Compare forward and backward functions with PyTorch's of the same name; return the output's shape."""
    tensor = torch.tensor(x, requires_grad=True)
    expected = getattr(torch.nn.functional, name)(tensor, size, **options)
    dy = rng.integers(-9, 10, tuple(expected.shape)).astype(np.float32)
    expected.backward(torch.tensor(dy))
    written = {key: as_int_or_pair(rng, value) if key == "padding" else value for key, value in options.items()}
    forward, backward = getattr(F, f"{name}_forward"), getattr(F, f"{name}_backward")
    y, cache = forward(in_memory(device, x, memory), as_int_or_pair(rng, size), **written)
    dx = backward(in_memory(device, dy, memory), cache)
    # A pixel's gradient sums a few of dy, which may cancel.
    rtol, atol = (0, 0) if exact else (2e-6, 2e-5)
    assert_close(y, expected.detach().numpy(), rtol, rtol, device=device)
    assert_close(dx, tensor.grad.numpy(), rtol, atol, device=device)
    return y.shape


def test_equals_pytorch(device, rng):
    torch = single_threaded_torch()
    reached_over = 0
    for i, draw_rng in enumerate(rng.spawn(60)):
        case = draw_case(draw_rng)
        with noted(draw=i, **case):
            kernel, options, memory = case["kernel"], case["options"], case["memory"]
            x = draw_rng.normal(size=case["shape"]).astype(np.float32)
            counted = options | {"count_include_pad": case["count_include_pad"]}
            against_pytorch(torch, device, draw_rng, memory, x, "avg_pool2d", kernel, counted)
            # Max pooling with the same windows: exactly equal, also in ties.
            x = draw_rng.integers(-3, 3, case["shape"]).astype(np.float32)
            shape = against_pytorch(torch, device, draw_rng, memory, x, "max_pool2d", kernel, options, exact=True)
            axes = zip(x.shape[2:], kernel, options["stride"] or kernel, options["padding"], strict=True)
            reached_over += shape[2:] != tuple(reference.output_size(n, k, s, p, p, 1) for n, k, s, p in axes)
    assert reached_over >= 10


def test_adaptive_equals_pytorch(device, rng):
    torch = single_threaded_torch()
    for i, draw_rng in enumerate(rng.spawn(40)):
        shape = (choose(draw_rng, 1, 3, 33), choose(draw_rng, 1, 2, 5), *draw_pair(draw_rng, 1, 12))
        size, memory = draw_pair(draw_rng, 1, 12), choose(draw_rng, *MEMORY)
        with noted(draw=i, shape=shape, size=size, memory=memory):
            x = draw_rng.normal(size=shape).astype(np.float32)
            against_pytorch(torch, device, draw_rng, memory, x, "adaptive_avg_pool2d", size, {})
            # The mean over all is a grid of one.
            y, cache = F.global_avg_pool2d_forward(in_memory(device, x, memory))
            assert_close(y, x.mean(axis=(2, 3)), 2e-6, 2e-6, device=device)
            dy = draw_rng.normal(size=y.shape).astype(np.float32)
            expected = np.broadcast_to(dy[:, :, None, None] / np.float32(shape[2] * shape[3]), shape)
            dx = F.global_avg_pool2d_backward(in_memory(device, dy, memory), cache)
            assert_close(dx, expected, 2e-6, 0, device=device)


def test_shared_between_threads_it_is_the_same(rng):
    """Large enough for several tasks, which the draws above are not."""
    torch = single_threaded_torch()
    x = rng.normal(size=(64, 6, 28, 28)).astype(np.float32)
    options = {"stride": (2, 2), "padding": (1, 1)}
    against_pytorch(torch, CPU, rng, "channel-major", x, "avg_pool2d", (3, 3), options)
    against_pytorch(torch, CPU, rng, "channel-major", x, "adaptive_avg_pool2d", (5, 5), {})


# Shape, window, options, and the output's size by hand.
OVER_THE_EDGE = [
    ((1, 2, 6, 8), (3, 3), {"stride": (2, 2)}, (3, 4)),
    ((1, 1, 5, 5), (2, 2), {"stride": (3, 3)}, (2, 2)),  # a window that starts on the last pixel
    ((1, 1, 4, 4), (2, 2), {"stride": (4, 4)}, (1, 1)),  # one that would start beyond it
    ((1, 1, 5, 6), (2, 2), {"stride": (3, 3), "padding": (1, 1)}, (2, 3)),  # and one in the padding after it
    ((2, 1, 6, 7), (2, 2), {"stride": (3, 3), "dilation": (2, 3)}, (2, 2)),
    ((2, 1, 3, 2), (5, 4), {"stride": (3, 3)}, (1, 1)),  # a window larger than the image
    ((33, 1, 5, 4), (2, 3), {"stride": (2, 2), "padding": (0, 1, 1, 0)}, (3, 2)),
]


@pytest.mark.parametrize(("shape", "kernel", "options", "size"), OVER_THE_EDGE)
def test_max_pooling_over_the_edge_equals_the_loops(shape, kernel, options, size, device, rng):
    x = rng.integers(-4, -1, shape).astype(np.float64)
    expected_y, winners = reference_layers.max_pool2d(x, kernel, **options, ceil_mode=True)
    y, cache = F.max_pool2d_forward(device.asarray(x), kernel, **options, ceil_mode=True)
    assert y.shape[2:] == size
    assert_close(y, expected_y, 0, 0, device=device)
    dy = rng.normal(size=y.shape)
    dx = F.max_pool2d_backward(device.asarray(dy), cache)
    assert_close(dx, reference.max_pool2d_backward(dy, x, winners), 1e-12, 1e-13, device=device)
    layer = MaxPool2d(kernel, **options, ceil_mode=True)
    assert_close(layer(device.asarray(x)), expected_y, 0, 0, device=device)


def test_options_reach_the_function(device, rng):
    x = device.asarray(rng.normal(size=(2, 3, 6, 8)))
    options = {"stride": (2, 3), "padding": 1, "ceil_mode": True, "count_include_pad": False}
    for layer, (expected, cache), backward in (
        (AvgPool2d(3, **options), F.avg_pool2d_forward(x, 3, **options), F.avg_pool2d_backward),
        (AdaptiveAvgPool2d((4, 3)), F.adaptive_avg_pool2d_forward(x, (4, 3)), F.adaptive_avg_pool2d_backward),
        (GlobalAvgPool2d(), F.global_avg_pool2d_forward(x), F.global_avg_pool2d_backward),
    ):
        assert_close(layer(x), device.to_host(expected), 0, 0, device=device)
        dy = device.asarray(rng.normal(size=expected.shape))
        assert_close(layer.backward(dy), device.to_host(backward(dy, cache)), 0, 0, device=device)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: F.avg_pool2d_forward(x[0], 2), ["(N, C, H, W)", "(1, 4, 5)"]),
        (lambda x: F.adaptive_avg_pool2d_forward(x[0], 2), ["(N, C, H, W)", "(1, 4, 5)"]),
        (lambda x: F.global_avg_pool2d_forward(x[0]), ["(N, C, H, W)", "(1, 4, 5)"]),
        (lambda x: F.avg_pool2d_forward(x, (3, 2), padding=(2, 0)), ["half the window", "(2, 0)", "3×2"]),
        (lambda x: F.avg_pool2d_forward(x, 5), ["5×5", "4×5"]),
        (lambda x: F.max_pool2d_forward(x, 6, stride=2, ceil_mode=True), ["6×6", "4×5"]),
        (lambda x: F.adaptive_avg_pool2d_forward(x, (2, 0)), ["output_size", "at least 1", "(2, 0)"]),
        (lambda x: AvgPool2d(0), ["kernel_size", "0"]),
        (lambda x: AvgPool2d(3, padding=2), ["half the window", "2"]),
        (lambda x: AdaptiveAvgPool2d(0), ["output_size", "0"]),
    ],
)
def test_errors_say_what_was_expected_and_what_came(function, words, device):
    with refused(*words):
        function(device.asarray(np.zeros((1, 1, 4, 5), np.float32)))
