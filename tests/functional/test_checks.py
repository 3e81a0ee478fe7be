"""What every function refuses: gradients that do not fit, integers, what is no array, and float16 where it is wrong."""

import numpy as np
import pytest
from helpers import assert_close
from inputs import refused

from xpcnn import functional as F
from xpcnn.backend import array_namespace
from xpcnn.parity.tolerances import tolerance


def draw(*shape):
    return np.random.default_rng(0).normal(size=shape)


def place(device, x, *shape):
    """Return random numbers of a shape with the device and dtype of `x`."""
    return device.asarray(draw(*shape).astype(x.dtype))


def batch_norm(x, weight=None, bias=None):
    y, _, cache = F.batch_norm_forward(x, weight, bias)
    return y, cache


def labels(x):
    return array_namespace(x).zeros(len(x), np.int64)


IMAGES, ROWS = (3, 4, 6, 5), (6, 4)
# The shape of the input, the forward and the backward function, and which of them take float16.
FUNCTIONS = {
    "relu": (IMAGES, lambda d, x: F.relu_forward(x), F.relu_backward, "both"),
    "relu6": (IMAGES, lambda d, x: F.relu6_forward(x), F.relu6_backward, "both"),
    "leaky_relu": (IMAGES, lambda d, x: F.leaky_relu_forward(x, 0.1), F.leaky_relu_backward, "both"),
    "sigmoid": (IMAGES, lambda d, x: F.sigmoid_forward(x), F.sigmoid_backward, "both"),
    "tanh": (IMAGES, lambda d, x: F.tanh_forward(x), F.tanh_backward, "both"),
    "elu": (IMAGES, lambda d, x: F.elu_forward(x, 1.5), F.elu_backward, "both"),
    "silu": (IMAGES, lambda d, x: F.silu_forward(x), F.silu_backward, "both"),
    "gelu": (IMAGES, lambda d, x: F.gelu_forward(x), F.gelu_backward, "both"),
    "elementwise": (
        IMAGES,
        lambda d, x: F.elementwise_forward(x, F.tanh),
        lambda dy, cache: F.elementwise_backward(dy, cache, lambda x, y: 1 - y * y),
        "both",
    ),
    "softmax": (IMAGES, lambda d, x: F.softmax_forward(x, 1), F.softmax_backward, "none"),
    "max_pool2d": (IMAGES, lambda d, x: F.max_pool2d_forward(x, 2), F.max_pool2d_backward, "both"),
    "avg_pool2d": (IMAGES, lambda d, x: F.avg_pool2d_forward(x, 2), F.avg_pool2d_backward, "none"),
    "adaptive_avg_pool2d": (
        IMAGES,
        lambda d, x: F.adaptive_avg_pool2d_forward(x, (4, 3)),
        F.adaptive_avg_pool2d_backward,
        "both",
    ),
    "global_avg_pool2d": (IMAGES, lambda d, x: F.global_avg_pool2d_forward(x), F.global_avg_pool2d_backward, "both"),
    "dropout": (IMAGES, lambda d, x: F.dropout_forward(x, 0.5, (1, 2)), F.dropout_backward, "both"),
    "batch_norm": (IMAGES, lambda d, x: batch_norm(x), F.batch_norm_backward, "none"),
    "group_norm": (IMAGES, lambda d, x: F.group_norm_forward(x, 2), F.group_norm_backward, "none"),
    "layer_norm": (IMAGES, lambda d, x: F.layer_norm_forward(x, (6, 5)), F.layer_norm_backward, "none"),
    "layer_norm2d": (IMAGES, lambda d, x: F.layer_norm2d_forward(x), F.layer_norm2d_backward, "none"),
    "layer_scale": (
        IMAGES,
        lambda d, x: F.layer_scale_forward(x, x, place(d, x, 4, 1, 1)),
        F.layer_scale_backward,
        "none",
    ),
    "linear": (ROWS, lambda d, x: F.linear_forward(x, place(d, x, 5, 4), place(d, x, 5)), F.linear_backward, "both"),
    "conv2d": (
        IMAGES,
        lambda d, x: F.conv2d_forward(x, place(d, x, 8, 2, 3, 3), place(d, x, 8), padding=1, groups=2),
        F.conv2d_backward,
        "forward",
    ),
    "conv2d of 16 images": (  # by MEC, where small products are fast
        (16, 4, 6, 5),
        lambda d, x: F.conv2d_forward(x, place(d, x, 8, 4, 3, 3)),
        F.conv2d_backward,
        "forward",
    ),
    "conv2d of 64 channels": (  # by Winograd's algorithm, where that is faster
        (8, 64, 9, 9),
        lambda d, x: F.conv2d_forward(x, place(d, x, 64, 64, 3, 3)),
        F.conv2d_backward,
        "forward",
    ),
    "conv_transpose2d": (
        IMAGES,
        lambda d, x: F.conv_transpose2d_forward(x, place(d, x, 4, 3, 3, 3), stride=2),
        F.conv_transpose2d_backward,
        "none",
    ),
}
LOSSES = {
    "cross_entropy": lambda x: F.cross_entropy_forward(x, labels(x)),
    "hinge": lambda x: F.hinge_forward(x, labels(x)),
    "mean_squared_error": lambda x: F.mean_squared_error_forward(x, x),
    "binary_cross_entropy": lambda x: F.binary_cross_entropy_forward(x, x),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_gradient_that_does_not_fit_is_refused(name, device):
    shape, forward, backward, _ = FUNCTIONS[name]
    y, cache = forward(device, device.asarray(draw(*shape).astype(np.float32)))
    function = getattr(backward, "__name__", "").replace("<lambda>", "elementwise_backward")
    for wrong in (
        (*y.shape[:-1], 20_000),
        (*y.shape[:-1], 1),
        (y.shape[0] + 1, *y.shape[1:]),
        (y.shape[0], y.shape[1] + 1, *y.shape[2:]),
        (*y.shape, 1),
        y.shape[1:],
        (),
    ):
        with refused(function, f"shape and dtype, {y.shape} float32", f"got {wrong} float32"):
            backward(device.asarray(np.ones(wrong, np.float32)), cache)
    with refused(function, "float32, got", "float64"):
        backward(device.asarray(np.ones(y.shape)), cache)
    with refused(function, "as an array, got list", error=TypeError):
        backward([1.0], cache)
    backward(device.asarray(np.ones(y.shape, np.float32)), cache)


@pytest.mark.parametrize("name", [*FUNCTIONS, *LOSSES])
def test_what_is_no_array_of_floats_is_refused(name, device):
    if name in FUNCTIONS:
        shape, forward, *_ = FUNCTIONS[name]
        run = lambda x: forward(device, x)  # noqa: E731
    else:
        shape, run = ROWS, LOSSES[name]
    for dtype in (np.int64, np.uint8, np.bool_, np.complex64):
        with refused("convert with .astype(np.float32)", np.dtype(dtype).name):
            run(device.asarray(np.ones(shape, dtype)))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x, w: F.relu_forward([1.0]), ["relu_forward", "(N, ...)", "got list"]),
        (lambda x, w: F.relu_forward(None), ["relu_forward", "got NoneType"]),
        (lambda x, w: F.relu_forward(np.float32(1)), ["relu_forward", "without axes"]),
        (lambda x, w: F.max_pool2d_forward([[1.0]], 2), ["max_pool2d_forward", "(N, C, H, W)", "got list"]),
        (lambda x, w: F.conv2d_forward(None, w), ["conv2d_forward", "(N, C, H, W)", "got NoneType"]),
        (lambda x, w: F.conv2d_forward(x, None), ["conv2d_forward", "weight", "got NoneType"]),
        (lambda x, w: F.conv2d_forward(x, w, [1.0]), ["conv2d_forward", "bias", "got list"]),
        (lambda x, w: F.conv_transpose2d_forward(x, [1.0]), ["conv_transpose2d_forward", "weight", "got list"]),
        (lambda x, w: F.linear_forward(x[:, :, 0, 0], [1.0]), ["linear_forward", "weight", "got list"]),
        (lambda x, w: F.batch_norm_forward(x, [1.0] * 4), ["batch_norm_forward", "weight", "got list"]),
        (lambda x, w: F.group_norm_forward(x, 2, None, [1.0] * 4), ["group_norm_forward", "bias", "got list"]),
        (lambda x, w: F.add(x, 1.0), ["add", "y", "got float"]),
        (lambda x, w: F.cross_entropy_forward(x[:, :, 0, 0], [0, 1, 2]), ["cross_entropy_forward", "labels", "list"]),
        (lambda x, w: F.cross_entropy_forward([[1.0]], x), ["cross_entropy_forward", "(N, classes)", "list"]),
        (lambda x, w: F.mean_squared_error_forward(x, None), ["mean_squared_error_forward", "target", "NoneType"]),
    ],
)
def test_the_argument_that_is_no_array_is_named(call, words, device):
    x, weight = (device.asarray(draw(*shape).astype(np.float32)) for shape in (IMAGES, (2, 4, 3, 3)))
    with refused(*words, error=TypeError):
        call(x, weight)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_float16_is_right_or_refused(name, device):
    shape, forward, backward, takes = FUNCTIONS[name]
    x = device.asarray(draw(*shape).astype(np.float16))
    if takes == "none":
        with refused(f"{name}_forward", "float16", "convert with .astype(np.float32)"):
            forward(device, x)
        return
    y, cache = forward(device, x)
    wide, wide_cache = forward(device, x.astype(np.float64))
    if "conv" in name or name == "linear":  # whose weights are rounded as well: compare with their products
        wide, wide_cache = forward_of_rounded(device, x, cache)
    close = tolerance("elementwise", precision="float16")
    assert_close(y, device.to_host(wide), 0, close * abs(device.to_host(wide)).max(), device=device, dtype=np.float16)
    dy = device.asarray(draw(*y.shape).astype(np.float16))
    if takes == "forward":
        with refused("conv2d_backward", "float16"):
            backward(dy, cache)
        return
    found, exact = (as_tuple(backward(*gradient)) for gradient in ((dy, cache), (dy.astype(np.float64), wide_cache)))
    for got, expected in zip(found, map(device.to_host, exact), strict=True):
        assert_close(got, expected, 0, close * abs(expected).max(), device=device, dtype=np.float16)


def forward_of_rounded(device, x, cache):
    """Return the forward pass in float64 of the float16 arrays that a convolution or linear layer was given."""
    x, weight = x.astype(np.float64), cache.weight.astype(np.float64)
    bias = device.asarray(draw(len(weight)).astype(np.float16)).astype(np.float64) if cache.has_bias else None
    if weight.ndim == 2:
        return F.linear_forward(x, weight, bias)
    padding = cache.window.padding[0]
    return F.conv2d_forward(x, weight, bias, padding=padding, groups=cache.groups)


def as_tuple(value):
    return value if isinstance(value, tuple) else (value,)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_refuse_float16(name, device):
    with refused(f"{name}_forward", "float16"):
        LOSSES[name](device.asarray(draw(*ROWS).astype(np.float16)))


ACTIVATIONS = ("relu", "relu6", "leaky_relu", "sigmoid", "tanh", "elu", "silu", "gelu", "elementwise", "softmax")

# What an input without elements gives in PyTorch: True for zeros or an empty array, False for an error.
EMPTY = {
    "relu": True,
    "sigmoid": True,
    "softmax": True,
    "max_pool2d": True,
    "avg_pool2d": True,
    "adaptive_avg_pool2d": True,
    "global_avg_pool2d": True,
    "dropout": True,
    "group_norm": True,
    "layer_norm": True,
    "layer_norm2d": True,
    "linear": True,
    "batch_norm": "more than one value per channel",
    "conv2d": "N of at least 1",
    "conv_transpose2d": "sizes of at least 1",
}


@pytest.mark.parametrize("name", EMPTY)
def test_an_empty_batch(name, device):
    shape, forward, backward, _ = FUNCTIONS[name]
    x = device.asarray(np.zeros((0, *shape[1:]), np.float32))
    if EMPTY[name] is not True:
        with refused(EMPTY[name]):
            forward(device, x)
        return
    y, cache = forward(device, x)
    dx, *others = as_tuple(backward(y, cache))
    assert len(y) == 0
    assert dx.shape == x.shape
    for gradient in others:
        assert gradient is None or not device.to_host(gradient).any()


@pytest.mark.parametrize("name", LOSSES)
def test_a_mean_over_nothing_is_refused(name, device):
    for shape in ((0, 4), (3, 0)):
        with refused("at least one", str(shape)):
            LOSSES[name](device.asarray(np.zeros(shape, np.float32)))


EMPTY_IMAGES = [("layer_norm", 1), ("layer_scale", 2), ("layer_scale", 3)]


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if " of " not in name])
@pytest.mark.parametrize("axis", [1, 2, 3])
def test_sizes_of_0(name, axis, device):
    """An empty result, as in PyTorch, or a ValueError in words of this library."""
    shape, forward, backward, _ = FUNCTIONS[name]
    shape = tuple(0 if i == axis else size for i, size in enumerate(shape))
    x = device.asarray(np.zeros(shape, np.float32))
    if name in (*ACTIVATIONS, "dropout") or (name, axis) in EMPTY_IMAGES:
        y, cache = forward(device, x)
        dx, *_ = as_tuple(backward(y, cache))
        assert y.shape == dx.shape == shape
    elif axis < len(shape):
        with pytest.raises(ValueError, match=r"expected (input|weight)|window .* does not fit|more than one value"):
            forward(device, x)
