"""Convolution against slow loops, numeric gradients and PyTorch, in tiles of every shape and in bounded memory."""

import math
import threading
import tracemalloc

import numpy as np
import pytest
import reference
from helpers import assert_close, to_device
from inputs import MEMORY, as_int_or_pair, choose, draw_pair, draw_size, in_memory, noted, refused
from pytorch import single_threaded_torch

from xpcnn.backend import CPU, batch_first, memory
from xpcnn.functional import conv2d, conv2d_backward, conv2d_forward, im2col

# The shapes of input and weight, and the options; all with bias but the last.
CASES = {
    "plain": ((2, 3, 5, 6), (4, 3, 3, 3), {}),
    "stride": ((2, 2, 7, 8), (3, 2, 3, 2), {"stride": (2, 3), "padding": (1, 2)}),
    "stride over pixels": ((2, 2, 8, 7), (3, 2, 1, 2), {"stride": (3, 4)}),
    "dilation": ((2, 2, 7, 6), (3, 2, 3, 2), {"dilation": (2, 3), "padding": 1}),
    "groups": ((3, 4, 4, 5), (6, 2, 2, 3), {"groups": 2, "padding": 1}),
    "depthwise": ((2, 3, 5, 4), (6, 1, 3, 3), {"groups": 3, "stride": (2, 1)}),
    "four sides": ((2, 2, 4, 5), (3, 2, 3, 3), {"padding": (0, 3, 2, 1)}),
    "same": ((2, 2, 4, 5), (3, 2, 2, 4), {"padding": "same", "dilation": (1, 3)}),
    "valid": ((1, 3, 3, 4), (2, 3, 3, 4), {"padding": "valid"}),
    "mostly padding": ((2, 1, 2, 1), (2, 1, 2, 2), {"padding": 5, "stride": (2, 1)}),
    "many images": ((33, 1, 4, 5), (2, 1, 2, 3), {"padding": (1, 0)}),
    "one row": ((3, 2, 3, 7), (3, 2, 1, 5), {"padding": (0, 2), "bias": False}),
}


def arrays(case, rng):
    """Return x, weight, bias and the gradient of the output, on the host in float64, and the options."""
    x_shape, weight_shape, options = CASES[case]
    options = {"stride": (1, 1), "dilation": (1, 1)} | options
    x, weight = rng.normal(size=x_shape), rng.normal(size=weight_shape)
    bias = rng.normal(size=weight_shape[0]) if options.pop("bias", True) else None
    dy = rng.normal(size=reference.conv2d(x, weight, bias, **options).shape)
    return x, weight, bias, dy, options


def tiles_of(device, monkeypatch, tile_bytes):
    monkeypatch.setattr(device, "tile_bytes", tile_bytes)


@pytest.mark.parametrize("tile_bytes", [1, 1000, 1 << 20])
@pytest.mark.parametrize("case", CASES)
def test_equals_the_loops(case, tile_bytes, device, rng, monkeypatch):
    tiles_of(device, monkeypatch, tile_bytes)
    x, weight, bias, dy, options = arrays(case, rng)
    y, cache = conv2d_forward(*to_device(device, x, weight, bias), **options)
    assert_close(y, reference.conv2d(x, weight, bias, **options), 1e-10, 1e-13, device=device)
    dx, dweight, dbias = conv2d_backward(device.asarray(dy), cache)
    expected = reference.conv2d_backward(dy, x, weight, **options)
    assert_close(dx, expected[0], 1e-10, 1e-13, device=device)
    assert_close(dweight, expected[1], 1e-10, 1e-12, device=device)
    if bias is None:
        assert dbias is None
    else:
        assert_close(dbias, expected[2], 1e-10, 1e-12, device=device)
    skipped = conv2d_backward(device.asarray(dy), cache, input_gradient=False)
    assert skipped[0] is None
    assert_close(skipped[1], device.to_host(dweight), 0, 0, device=device)


@pytest.mark.parametrize("case", ["stride", "depthwise", "same", "mostly padding"])
def test_equals_numeric_gradients(case, device, rng):
    x, weight, bias, dy, options = arrays(case, rng)

    def output(x, weight, bias):
        return device.to_host(conv2d_forward(*to_device(device, x, weight, bias), **options)[0])

    _, cache = conv2d_forward(*to_device(device, x, weight, bias), **options)
    dx, dweight, dbias = conv2d_backward(device.asarray(dy), cache)
    for gradient, of, at in (
        (dx, lambda x: output(x, weight, bias), x),
        (dweight, lambda weight: output(x, weight, bias), weight),
        (dbias, lambda bias: output(x, weight, bias), bias),
    ):
        expected = reference.numeric_gradient(of, at, dy, 1e-2)  # of a linear function: no step is too long
        assert_close(gradient, expected, 1e-7, 1e-9, device=device)


def draw_case(rng):
    groups = choose(rng, 1, 1, 2, 3)
    channels = groups * choose(rng, 1, 2, 4)
    if rng.random() < 0.2:
        groups = channels  # depthwise
    O = groups * choose(rng, 1, 2, 3)
    kernel = choose(rng, (1, int(rng.integers(1, 6))), (3, 3), draw_pair(rng, 1, 4))
    stride, dilation = choose(rng, (1, 1), draw_pair(rng, 1, 3)), choose(rng, (1, 1), draw_pair(rng, 1, 3))
    padding = choose(
        rng,
        "valid",
        "same" if stride == (1, 1) else 0,
        draw_pair(rng, 0, 3),
        draw_pair(rng, 4, 6),
        tuple(int(side) for side in rng.integers(0, 4, 4)),
        int(rng.integers(0, 4)),
    )
    return {
        "x_shape": (choose(rng, 1, 2, 5, 33), channels, *draw_size(rng, kernel, padding, dilation)),
        "weight_shape": (O, channels // groups, *kernel),
        "bias": bool(rng.random() < 0.7),
        "options": {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups},
        "tile_bytes": choose(rng, 1, 256, 4096, 1 << 20),
        "small_product": choose(rng, 0, 0, 1 << 12, 10**6),
        "memory": choose(rng, *MEMORY),
    }


def by_torch(torch, x, weight, bias, dy, options):
    """Return PyTorch's output and gradients; dy may be a function of the output's shape."""
    tensors = [None if array is None else torch.tensor(array, requires_grad=True) for array in (x, weight, bias)]
    padded, options = tensors[0], dict(options)
    if not isinstance(options["padding"], str):
        sides = reference.four_sides(options.pop("padding"), weight.shape[2:], options["dilation"])
        padded = torch.nn.functional.pad(padded, sides)
    y = torch.nn.functional.conv2d(padded, *tensors[1:], **options)
    dy = dy(tuple(y.shape))
    y.backward(torch.tensor(dy))
    gradients = [None if tensor is None else tensor.grad.numpy() for tensor in tensors]
    return y.detach().numpy(), dy, gradients


@pytest.mark.filterwarnings("ignore:Using padding='same'")  # PyTorch's own copy for kernels of even length
def test_equals_pytorch_in_tiles_of_every_shape(device, rng, monkeypatch):
    torch = single_threaded_torch()
    met, original = set(), im2col.im2col

    def lower(x, window, tile, device):
        _, H, W, N = x.shape
        OH, OW = window.output_size(H, W)
        rows, cols, images = tile.shape
        whole = (rows, cols, images) == (OH, OW, N)
        met.add("all" if whole else "some images" if images < N else "part of a row" if cols < OW else "whole rows")
        (KH, _), (top, *_) = window.kernel, window.padding
        first, last = tile.rows.start * window.stride[0] - top, (tile.rows.stop - 1) * window.stride[0] - top
        if last + (KH - 1) * window.dilation[0] < 0 or first >= H:
            met.add("only padding")
        return original(x, window, tile, device)

    monkeypatch.setattr(im2col, "im2col", lower)
    for i, draw_rng in enumerate(rng.spawn(100)):
        case = draw_case(draw_rng)
        with noted(draw=i, **case):
            tiles_of(device, monkeypatch, case["tile_bytes"])
            monkeypatch.setattr(device, "small_product", case["small_product"])
            x, weight, bias, options = (
                draw_rng.normal(size=case["x_shape"]).astype(np.float32),
                draw_rng.normal(size=case["weight_shape"]).astype(np.float32),
                draw_rng.normal(size=case["weight_shape"][0]).astype(np.float32) if case["bias"] else None,
                case["options"],
            )
            expected_y, dy, expected = by_torch(
                torch, x, weight, bias, lambda shape, rng=draw_rng: rng.normal(size=shape).astype(np.float32), options
            )
            written = {
                name: as_int_or_pair(draw_rng, v) if name in ("stride", "dilation") else v
                for name, v in options.items()
            }
            y, cache = conv2d_forward(in_memory(device, x, case["memory"]), *to_device(device, weight, bias), **written)
            gradients = conv2d_backward(in_memory(device, dy, case["memory"]), cache)
            assert_close(y, expected_y, 1e-5, 1e-5, device=device)
            for name, ours, theirs in zip(("dx", "dweight", "dbias"), gradients, expected, strict=True):
                with noted(gradient=name):
                    assert (ours is None) == (theirs is None)
                    if theirs is not None:
                        assert_close(ours, theirs, 1e-5, 3e-6 * max(1, np.abs(theirs).max()), device=device)
    assert met == {"all", "whole rows", "part of a row", "some images", "only padding"}


def test_order_of_memory_changes_no_bit(device, rng, monkeypatch):
    tiles_of(device, monkeypatch, 2048)
    x, weight, bias, dy, options = arrays("groups", rng)
    seen = []
    for order in MEMORY:
        y, cache = conv2d_forward(in_memory(device, x, order), *to_device(device, weight, bias), **options)
        results = [y, *conv2d_backward(in_memory(device, dy, order), cache)]
        seen.append([device.to_host(result).tobytes() for result in results])
    assert seen[0] == seen[1] == seen[2]


def test_what_the_caller_gave_is_not_changed(device, rng):
    x, weight, bias, dy, options = arrays("groups", rng)
    given = to_device(device, *(np.copy(array) for array in (x, weight, bias, dy)))
    _, cache = conv2d_forward(*given[:3], **options)
    first = conv2d_backward(given[3], cache)
    again = conv2d_backward(given[3], cache)
    for array, before in zip(given, (x, weight, bias, dy), strict=True):
        assert_close(array, before, 0, 0, device=device)
    for one, other in zip(first, again, strict=True):
        assert_close(one, device.to_host(other), 0, 0, device=device)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": (2, 5, 6, 6)}, ["input (N, 4, H, W)", "(6, 2, 3, 3)", "groups=2", "(2, 5, 6, 6)"]),
        ({"x": (4, 6, 6)}, ["(N, C, H, W)", "(4, 6, 6)"]),
        ({"bias": (5,)}, ["bias (6,)", "(5,)"]),
        ({"bias": (6, 1)}, ["bias (6,)", "(6, 1)"]),
        ({"groups": 4, "x": (2, 8, 6, 6)}, ["groups=4", "6 output channels"]),
        ({"x": (2, 4, 2, 6)}, ["3×3", "2×6"]),
        ({"x": (2, 4, 2, 6), "padding": (0, 1)}, ["3×3", "2×6", "padded to 2×8"]),
        ({"dilation": 3}, ["7×7", "6×6"]),
        ({"padding": "full"}, ["padding", '"same"', '"valid"', "'full'"]),
        ({"padding": "same", "stride": 2}, ['"same"', "stride 1", "(2, 2)"]),
        ({"padding": -1}, ["padding", "at least 0", "-1"]),
        ({"padding": (1, 2, 3)}, ["padding", "(1, 2, 3)"]),
        ({"padding": (1, 2, -3, 1)}, ["padding", "at least 0", "-3"]),
        ({"stride": 0}, ["stride", "at least 1", "0"]),
        ({"stride": (1, 2, 3)}, ["stride", "one or two", "(1, 2, 3)"]),
        ({"dilation": (0, 1)}, ["dilation", "at least 1", "(0, 1)"]),
        ({"dtype": np.float64}, ["dtype", "float32", "float64"]),
        ({"groups": 0}, ["groups", "0"]),
    ],
    ids=repr,
)
def test_errors_say_what_was_expected_and_what_came(change, words, device):
    shapes = {"x": (2, 4, 6, 6), "bias": (6,)} | {name: change[name] for name in ("x", "bias") if name in change}
    options = {"groups": 2} | {name: value for name, value in change.items() if name not in ("x", "bias", "dtype")}
    x = device.xp.ones(shapes["x"], change.get("dtype", np.float32))
    weight, bias = device.xp.ones((6, 2, 3, 3), np.float32), device.xp.ones(shapes["bias"], np.float32)
    with refused(*words):
        conv2d_forward(x, weight, bias, **options)


def memory_beyond_results(batch):
    """Return by how many bytes forward and backward exceeded the arrays they return, working memory included."""
    rng = np.random.default_rng(0)
    x, dy = (batch_first(rng.random((8, 32, 32, batch), np.float32)) for _ in range(2))
    weight, bias = rng.random((8, 8, 3, 3), np.float32), rng.random(8, np.float32)
    tracemalloc.start()
    try:
        y, cache = conv2d_forward(x, weight, bias, padding=1)
        forward = tracemalloc.get_traced_memory()[1] - y.nbytes
        tracemalloc.reset_peak()
        gradients = conv2d_backward(dy, cache)
        results = sum(array.nbytes for array in (y, *gradients))
        return max(forward, tracemalloc.get_traced_memory()[1] - results)
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_batch(monkeypatch):
    """All columns of 64 images are 19 MB, of 1024 images 302 MB; one copy of the latter's input is 34 MB."""
    bound = 2 * 3 * CPU.tile_bytes  # two threads, each with a tile's columns, and what it computes from them
    before = CPU.threads
    try:
        for batch in (64, 1024):
            # Threads keep their working memory from one call to the next: here each begins with none.
            monkeypatch.setattr(CPU, "_local", threading.local())
            # And each block is asked for by itself, as a slab counts as taken whole.
            monkeypatch.setattr(CPU, "_memory", memory.MemoryPool())
            monkeypatch.setattr(memory, "_SLAB_SIZE", 1)
            CPU.threads = 2
            assert memory_beyond_results(batch) < bound
    finally:
        CPU.threads = before


@pytest.mark.parametrize(
    ("shape", "filters", "settings"),
    [
        ((8, 6, 6), 256, {"small_product": 0}),
        ((8, 20, 20), 16, {"small_product": 10**6}),
        ((16, 32, 32), 16, {"winograd_channels": 16}),
    ],
    ids=["im2col", "grouped", "winograd"],
)
def test_threads_share_a_single_image(shape, filters, settings, rng, monkeypatch):
    for name, value in {"part_work": 1, "winograd_channels": math.inf, **settings}.items():
        monkeypatch.setattr(CPU, name, value)
    x, weight = (rng.standard_normal(size).astype(np.float32) for size in ((1, *shape), (filters, shape[0], 3, 3)))
    tasks, original = [], CPU.map
    monkeypatch.setattr(CPU, "map", lambda function, of: tasks.append(len(of)) or original(function, of))
    results, before = [], CPU.threads
    try:
        for CPU.threads in (1, 2, 3):
            results.append(conv2d_forward(x, weight, padding=1)[0])
    finally:
        CPU.threads = before
    assert max(tasks) > 1
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])
    expected, _ = conv2d_forward(x.astype(np.float64), weight.astype(np.float64), padding=1)
    np.testing.assert_allclose(results[0], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 1}, {"dilation": 2, "padding": 2}])
@pytest.mark.parametrize("setting", [("small_product", 0), ("small_product", 10**6), ("tile_bytes", 1)])
def test_what_is_kept_serves_images_of_all_shapes(options, setting, rng, monkeypatch, device):
    monkeypatch.setattr(device, *setting)
    weight, bias, kept = device.asarray(rng.standard_normal((6, 4, 3, 3))), device.asarray(rng.standard_normal(6)), {}
    shapes = [(N, 4, H, W) for N in (1, 3, 20) for H in (9, 10, 11) for W in (8, 12)]
    results = []
    for shape in shapes * 2:
        x = device.asarray(rng.standard_normal(shape))
        expected, _ = conv2d_forward(x, weight, bias, **options)
        expected = device.to_host(expected).clip(-1, 2)
        results.append((conv2d(x, weight, bias, limits=(-1, 2), kept=kept, **options), expected))
    for got, expected in results:  # at the end: each has memory of its own
        assert_close(got, expected, rtol=1e-12, atol=1e-12, device=device)
    assert len(kept) <= 20
    with pytest.raises(ValueError, match="expected input"):
        conv2d(device.asarray(np.ones((1, 3, 9, 8))), weight, bias, limits=(-1, 2), kept=kept, **options)
