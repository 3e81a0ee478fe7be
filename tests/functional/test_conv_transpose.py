"""Transposed convolution against slow loops, numeric gradients and PyTorch."""

import numpy as np
import pytest
import reference
import reference_layers
from helpers import assert_close, to_device
from inputs import MEMORY, as_int_or_pair, choose, draw_pair, in_memory, noted, refused
from pytorch import single_threaded_torch

from xpcnn.functional import conv2d_forward, conv_transpose2d_backward, conv_transpose2d_forward
from xpcnn.nn import ConvTranspose2d

# The shapes of input and weight, and the options; all with bias but the last.
CASES = {
    "plain": ((2, 3, 4, 5), (3, 4, 3, 2), {}),
    "stride": ((2, 2, 4, 3), (2, 3, 3, 2), {"stride": (2, 3), "padding": (1, 0)}),
    "stride over pixels": ((2, 2, 3, 4), (2, 3, 1, 2), {"stride": (3, 4), "output_padding": (2, 3)}),
    "output padding": ((2, 2, 3, 4), (2, 3, 3, 3), {"stride": (2, 3), "padding": 1, "output_padding": (1, 2)}),
    "dilation": ((2, 2, 4, 3), (2, 3, 3, 2), {"dilation": (2, 3), "padding": (3, 1)}),
    "output padding by dilation": ((2, 1, 3, 3), (1, 2, 2, 3), {"dilation": (3, 2), "output_padding": (2, 1)}),
    "groups": ((3, 6, 3, 4), (6, 2, 2, 3), {"groups": 3, "padding": 1}),
    "depthwise": ((2, 3, 4, 4), (3, 1, 3, 3), {"groups": 3, "stride": (2, 1)}),
    "four sides": ((2, 2, 5, 4), (2, 3, 3, 3), {"padding": (0, 3, 2, 1), "stride": (1, 2)}),
    "many images": ((33, 1, 3, 4), (1, 2, 2, 3), {"stride": (2, 2), "output_padding": (0, 1)}),
    "no bias": ((3, 2, 3, 5), (2, 3, 1, 3), {"bias": False}),
}


def arrays(case, rng):
    """Return x, weight, bias and the gradient of the output, on the host in float64, and the options."""
    x_shape, weight_shape, options = CASES[case]
    options = {"stride": (1, 1), "dilation": (1, 1), "output_padding": (0, 0)} | options
    x, weight = rng.normal(size=x_shape), rng.normal(size=weight_shape)
    bias = rng.normal(size=weight_shape[1] * options.get("groups", 1)) if options.pop("bias", True) else None
    dy = rng.normal(size=reference_layers.conv_transpose2d(x, weight, bias, **options).shape)
    return x, weight, bias, dy, options


@pytest.mark.parametrize("tile_bytes", [1, 1000, 1 << 20])
@pytest.mark.parametrize("case", CASES)
def test_equals_the_loops(case, tile_bytes, device, rng, monkeypatch):
    monkeypatch.setattr(device, "tile_bytes", tile_bytes)
    x, weight, bias, dy, options = arrays(case, rng)
    y, cache = conv_transpose2d_forward(*to_device(device, x, weight, bias), **options)
    assert_close(y, reference_layers.conv_transpose2d(x, weight, bias, **options), 1e-10, 1e-13, device=device)
    dx, dweight, dbias = conv_transpose2d_backward(device.asarray(dy), cache)
    expected = reference_layers.conv_transpose2d_backward(dy, x, weight, **options)
    assert_close(dx, expected[0], 1e-10, 1e-13, device=device)
    assert_close(dweight, expected[1], 1e-10, 1e-12, device=device)
    if bias is None:
        assert dbias is None
    else:
        assert_close(dbias, expected[2], 1e-10, 1e-12, device=device)
    skipped = conv_transpose2d_backward(device.asarray(dy), cache, input_gradient=False)
    assert skipped[0] is None
    assert_close(skipped[1], device.to_host(dweight), 0, 0, device=device)


@pytest.mark.parametrize("case", ["output padding", "groups", "four sides"])
def test_equals_numeric_gradients(case, device, rng):
    x, weight, bias, dy, options = arrays(case, rng)

    def output(x, weight, bias):
        return device.to_host(conv_transpose2d_forward(*to_device(device, x, weight, bias), **options)[0])

    _, cache = conv_transpose2d_forward(*to_device(device, x, weight, bias), **options)
    dx, dweight, dbias = conv_transpose2d_backward(device.asarray(dy), cache)
    for gradient, of, at in (
        (dx, lambda x: output(x, weight, bias), x),
        (dweight, lambda weight: output(x, weight, bias), weight),
        (dbias, lambda bias: output(x, weight, bias), bias),
    ):
        expected = reference.numeric_gradient(of, at, dy, 1e-2)  # of a linear function: no step is too long
        assert_close(gradient, expected, 1e-7, 1e-9, device=device)


def draw_case(rng):
    groups = choose(rng, 1, 1, 2, 3)
    kernel, stride, dilation = draw_pair(rng, 1, 4), draw_pair(rng, 1, 3), draw_pair(rng, 1, 3)
    size = draw_pair(rng, 1, 7)
    output_padding = tuple(int(rng.integers(max(pair))) for pair in zip(stride, dilation, strict=True))
    axes = zip(size, stride, kernel, dilation, output_padding, strict=True)
    lengths = [(n - 1) * s + (k - 1) * d + 1 + more for n, s, k, d, more in axes]
    return {
        "x_shape": (choose(rng, 1, 2, 33), groups * choose(rng, 1, 2, 4), *size),
        "outputs": choose(rng, 1, 2, 3),
        "kernel": kernel,
        "bias": bool(rng.random() < 0.7),
        "options": {
            "stride": stride,
            "padding": tuple(int(rng.integers((length - 1) // 2 + 1)) for length in lengths),
            "output_padding": output_padding,
            "dilation": dilation,
            "groups": groups,
        },
        "tile_bytes": choose(rng, 4096, 1 << 20),
        "memory": choose(rng, *MEMORY),
    }


def test_equals_pytorch(device, rng, monkeypatch):
    torch = single_threaded_torch()
    for i, draw_rng in enumerate(rng.spawn(50)):
        case = draw_case(draw_rng)
        with noted(draw=i, **case):
            monkeypatch.setattr(device, "tile_bytes", case["tile_bytes"])
            options, outputs = case["options"], case["outputs"]
            shapes = [case["x_shape"], (case["x_shape"][1], outputs, *case["kernel"]), (outputs * options["groups"],)]
            given = [draw_rng.normal(size=shape).astype(np.float32) for shape in shapes]
            given[2] = given[2] if case["bias"] else None
            tensors = [None if array is None else torch.tensor(array, requires_grad=True) for array in given]
            expected = torch.nn.functional.conv_transpose2d(*tensors, **options)
            dy = draw_rng.normal(size=tuple(expected.shape)).astype(np.float32)
            expected.backward(torch.tensor(dy))

            written = {name: as_int_or_pair(draw_rng, v) if name != "groups" else v for name, v in options.items()}
            x = in_memory(device, given[0], case["memory"])
            y, cache = conv_transpose2d_forward(x, *to_device(device, *given[1:]), **written)
            assert_close(y, expected.detach().numpy(), 1e-5, 1e-5, device=device)
            gradients = conv_transpose2d_backward(in_memory(device, dy, case["memory"]), cache)
            for name, ours, tensor in zip(("dx", "dweight", "dbias"), gradients, tensors, strict=True):
                with noted(gradient=name):
                    assert (ours is None) == (tensor is None)
                    if tensor is not None:
                        theirs = tensor.grad.numpy()
                        assert_close(ours, theirs, 1e-5, 3e-6 * max(1, np.abs(theirs).max()), device=device)


def test_is_the_gradient_of_a_convolution(device, rng):
    """With the same weight, what one maps back the other maps forth: <conv(x), y> = <x, conv_transpose(y)>."""
    options = {"stride": (2, 3), "padding": (1, 2), "dilation": (2, 1), "groups": 2}
    x, weight = rng.normal(size=(2, 4, 9, 10)), rng.normal(size=(6, 2, 3, 2))
    there, _ = conv2d_forward(*to_device(device, x, weight), **options)
    y = rng.normal(size=there.shape)
    back, _ = conv_transpose2d_forward(*to_device(device, y, weight), output_padding=(0, 0), **options)
    back = device.to_host(back)
    assert back.shape == x.shape
    assert np.sum(device.to_host(there) * y) == pytest.approx(np.sum(x * back), rel=1e-12)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": (2, 5, 4, 4)}, ["input (N, 4, H, W)", "(4, 3, 3, 3)", "(2, 5, 4, 4)"]),
        ({"x": (4, 4, 4)}, ["(N, C, H, W)", "(4, 4, 4)"]),
        ({"bias": (3,)}, ["bias (6,)", "(3,)"]),
        ({"groups": 3}, ["groups=3", "4 input channels"]),
        ({"groups": 0}, ["groups=0"]),
        ({"output_padding": 1}, ["output_padding", "below the stride or the dilation", "1"]),
        ({"output_padding": (0, 2), "stride": 2}, ["output_padding", "(0, 2)", "(2, 2)"]),
        ({"output_padding": -1}, ["output_padding", "at least 0", "-1"]),
        ({"padding": 3}, ["padding", "4×4", "0×0"]),
        ({"dtype": np.float64}, ["dtype", "float32", "float64"]),
    ],
    ids=repr,
)
def test_errors_say_what_was_expected_and_what_came(change, words, device):
    options = {"groups": 2} | {name: value for name, value in change.items() if name not in ("x", "bias", "dtype")}
    x = device.asarray(np.ones(change.get("x", (2, 4, 4, 4)), change.get("dtype", np.float32)))
    weight, bias = (np.ones(shape, np.float32) for shape in ((4, 3, 3, 3), change.get("bias", (6,))))
    with refused(*words):
        conv_transpose2d_forward(x, *to_device(device, weight, bias), **options)


def test_the_layer_draws_its_weight_by_what_one_output_sees(rng):
    drawn = ConvTranspose2d(64, 30, (3, 5), groups=2, rng=rng).weight.data
    assert drawn.shape == (64, 15, 3, 5)
    assert drawn.var() == pytest.approx(2 / (32 * 3 * 5), rel=0.05)
    # With one value per output channel, group by group, each channel keeps its own.
    numbered = ConvTranspose2d(4, 6, 1, groups=2, weight_init=lambda shape, rng: np.arange(12.0).reshape(shape))
    assert numbered.weight.data[:, :, 0, 0].tolist() == [[0, 2, 4], [1, 3, 5], [6, 8, 10], [7, 9, 11]]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"groups": 3}, ["groups=3", "4 and 6"]),
        ({"output_padding": 1}, ["output_padding", "1"]),
        ({"stride": 0}, ["stride", "0"]),
    ],
)
def test_bad_options_are_refused_when_the_layer_is_made(options, words):
    with refused(*words):
        ConvTranspose2d(4, 6, 3, **options)


# -- One bias per output position -------------------------------------------------------------------------------------
