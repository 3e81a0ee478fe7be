"""A convolutional network written by hand, and what its author found better in Paddle's layer."""

import numpy as np
import pytest
import reference
import reference_layers
from documents import module_gradient_errors
from helpers import assert_close
from inputs import refused
from strict_xp import DEVICE as STRICT

import xpcnn
from xpcnn.backend import CPU, available_devices
from xpcnn.nn import (
    Activation,
    Conv2d,
    ConvTranspose2d,
    Identity,
    MaxPool2d,
    PositionBias,
    ReLU,
    Sequential,
    Sigmoid,
    conv_relu_pool,
)
from xpcnn.optim import SGD

IMAGE = [
    [[0, 1, 1, 0, 2], [2, 2, 2, 2, 1], [1, 0, 0, 2, 0], [0, 1, 1, 0, 0], [1, 2, 0, 0, 2]],
    [[1, 0, 2, 2, 0], [0, 0, 0, 2, 0], [1, 2, 1, 2, 1], [1, 0, 0, 0, 0], [1, 2, 1, 1, 1]],
    [[2, 1, 2, 0, 0], [1, 0, 0, 1, 0], [0, 2, 1, 0, 1], [0, 1, 2, 2, 2], [2, 1, 0, 0, 1]],
]
SENSITIVITY = [[[0, 1, 1], [2, 2, 2], [1, 0, 0]], [[1, 0, 2], [0, 0, 0], [1, 2, 1]]]
FILTERS = [
    [
        [[-1, 1, 0], [0, 1, 0], [0, 1, 1]],
        [[-1, -1, 0], [0, 0, 0], [0, -1, 0]],
        [[0, 0, -1], [0, 1, 0], [1, -1, -1]],
    ],
    [
        [[1, 1, -1], [-1, -1, 1], [0, -1, 1]],
        [[0, 1, 0], [-1, 0, -1], [-1, 1, 0]],
        [[-1, 0, 0], [-1, 0, 1], [-1, 0, 0]],
    ],
]
OUTPUT = [[[6, 7, 5], [3, -1, -1], [2, -1, 4]], [[2, -5, -8], [1, -4, -4], [0, -5, -5]]]
UPDATED = [
    [
        [[-1.008, 0.99, -0.009], [-0.005, 0.994, -0.006], [-0.006, 0.995, 0.996]],
        [[-1.004, -1.001, -0.004], [-0.01, -0.009, -0.012], [-0.002, -1.002, -0.002]],
        [[-0.002, -0.002, -1.003], [-0.005, 0.992, -0.005], [0.993, -1.008, -1.007]],
    ],
    [
        [[0.998, 0.998, -1.001], [-1.004, -1.007, 0.997], [-0.004, -1.004, 0.998]],
        [[0.0, 0.999, 0.0], [-1.009, -0.005, -1.004], [-1.004, 1.0, 0.0]],
        [[-1.004, -0.006, -0.005], [-1.002, -0.005, 0.998], [-1.002, -0.001, 0.0]],
    ],
]


def test_conv_example(device):
    layer = Conv2d(3, 2, 3, stride=2, padding=1, dtype=np.float64)
    layer.weight.data[...], layer.bias.data[...] = FILTERS, [1, 0]
    layer.to(device)
    y = layer(device.asarray([IMAGE], np.float64))
    assert_close(y, np.array([OUTPUT], float), 0, 0, device=device)
    optimizer = SGD(layer.named_parameters(), lr=0.001)
    layer.backward(device.asarray([SENSITIVITY], np.float64))
    optimizer.step()
    assert_close(layer.bias.data, [0.991, -0.007], 0, 1e-12, device=device)
    assert_close(layer.weight.data, UPDATED, 0, 1e-12, device=device)


class Cube(Activation):
    def function(self, x):
        return x**3

    def derivative(self, x, y):
        return 3 * x**2


@pytest.mark.parametrize(
    ("layer", "values", "slopes"),
    [
        (ReLU(), [0, 0, 2], [0, 0, 1]),
        (Sigmoid(), [1 / (1 + np.e), 0.5, 1 / (1 + np.e**-2)], [0.19661193324148185, 0.25, 0.10499358540350652]),
        (Identity(), [-1, 0, 2], [1, 1, 1]),
        (Cube(), [-1, 0, 8], [3, 0, 12]),
    ],
    ids=["relu", "sigmoid", "identity", "own"],
)
def test_activators(device, layer, values, slopes):
    """An activation of one's own takes its function and its derivative, as `Cube` above."""
    assert_close(layer(device.asarray([[-1.0, 0.0, 2.0]])), [np.array(values, float)], 1e-14, 1e-15, device=device)
    dy = np.array([[1.0, 10.0, 100.0]])
    assert_close(layer.backward(device.asarray(dy)), dy * slopes, 1e-14, 1e-15, device=device)


@pytest.mark.parametrize(("kernel", "stride"), [((2, 2), (2, 2)), ((3, 3), (2, 2)), ((3, 2), (1, 3)), ((1, 4), (4, 1))])
def test_max_pool(device, rng, kernel, stride):
    x = rng.integers(0, 9, (2, 3, 9, 8)).astype(float)  # with ties, which the first of equal values wins
    layer = MaxPool2d(kernel, stride)
    y, winners = reference.max_pool2d(x, kernel, stride=stride)
    assert_close(layer(device.asarray(x)), y, 0, 0, device=device)
    dy = rng.normal(size=y.shape)
    expected = reference.max_pool2d_backward(dy, x, winners)
    assert_close(layer.backward(device.asarray(dy)), expected, 1e-14, 1e-14, device=device)


def test_simple_img_conv_pool(device, rng):
    """One call makes convolution, activation and pooling, with the sizes of Paddle's example: 20 filters of 5×5."""
    block = conv_relu_pool(1, 20, 5, pool_size=2, pool_stride=2, rng=rng, dtype=np.float64)
    x = rng.normal(size=(1, 1, 28, 28))
    activated = reference.relu(reference.conv2d(x, block["conv"].weight.data))
    expected, _ = reference.max_pool2d(activated, (2, 2), stride=(2, 2))
    assert expected.shape == (1, 20, 12, 12)
    assert_close(block.to(device)(device.asarray(x)), expected, 1e-12, 1e-12, device=device)
    other = conv_relu_pool(2, 3, 3, pool_size=3, pool_stride=1, activation=Sigmoid(), rng=rng, dtype=np.float64)
    errors = module_gradient_errors(
        device, rng, other.to(device), rng.normal(size=(1, 2, 7, 6)), rng.normal(size=(1, 3, 3, 2))
    )
    assert max(errors) < 1e-6


OPTIONS = {
    "rectangular": {"kernel_size": (2, 4)},
    "stride": {"kernel_size": 3, "stride": (1, 2)},
    "padding": {"kernel_size": 3, "padding": (2, 1)},
    "dilation": {"kernel_size": 2, "dilation": (3, 2)},
    "groups": {"kernel_size": 3, "groups": 2},
    "no-bias": {"kernel_size": 3, "bias": False},
}


def _pairs(options):
    """Write all options out in full, as the slow reference takes them."""
    names = ("stride", "padding", "dilation")
    both = {name: (value, value) if isinstance(value, int) else value for name, value in options.items()}
    rest = {name: both.get(name, (0, 0) if name == "padding" else (1, 1)) for name in names}
    return {**rest, "groups": options.get("groups", 1)}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_paddle_conv(device, rng, options):
    x = rng.normal(size=(2, 4, 9, 7))
    layer = Conv2d(4, 6, **options, rng=rng, dtype=np.float64)
    weight = layer.weight.data.copy()
    bias = None
    if layer.bias is not None:
        bias = layer.bias.data[...] = rng.normal(size=6)
    layer.to(device)
    y = reference.conv2d(x, weight, bias, **_pairs(options))
    assert_close(layer(device.asarray(x)), y, 1e-10, 1e-12, device=device)
    dy = rng.normal(size=y.shape)
    dx, dweight, dbias = reference.conv2d_backward(dy, x, weight, **_pairs(options))
    assert_close(layer.backward(device.asarray(dy)), dx, 1e-10, 1e-12, device=device)
    assert_close(layer.weight.grad, dweight, 1e-10, 1e-12, device=device)
    if bias is None:
        assert layer.bias is None
    else:
        assert_close(layer.bias.grad, dbias, 1e-10, 1e-12, device=device)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_paddle_conv_is_pytorchs(device, rng, options):
    torch = pytest.importorskip("torch")
    theirs = torch.nn.Conv2d(4, 6, **options)
    ours = Conv2d(4, 6, **options)
    ours.load_state_dict({name: value.numpy() for name, value in theirs.state_dict().items()})
    ours.to(device)
    x = rng.normal(size=(2, 4, 9, 7)).astype(np.float32)
    images = torch.from_numpy(x).requires_grad_()
    y = theirs(images)
    assert_close(ours(device.asarray(x)), y.detach().numpy(), 1e-4, 1e-5, device=device)
    dy = rng.normal(size=tuple(y.shape)).astype(np.float32)
    y.backward(torch.from_numpy(dy))
    assert_close(ours.backward(device.asarray(dy)), images.grad.numpy(), 1e-4, 1e-5, device=device)
    assert_close(ours.weight.grad, theirs.weight.grad.numpy(), 1e-4, 1e-5, device=device)


def test_paddle_conv_bias_per_position(device, rng):
    """Paddle's `shared_biases=False`."""
    x = rng.normal(size=(2, 3, 6, 5))
    layer = Sequential(
        conv=Conv2d(3, 4, 3, stride=(2, 1), bias=False, rng=rng, dtype=np.float64),
        bias=PositionBias((4, 2, 3), dtype=np.float64),
    )
    weight, bias = layer["conv"].weight.data.copy(), rng.normal(size=(4, 2, 3))
    layer["bias"].bias.data[...] = bias
    layer.to(device)
    expected = reference.conv2d(x, weight, stride=(2, 1)) + bias
    assert_close(layer(device.asarray(x)), expected, 1e-12, 1e-12, device=device)
    dy = rng.normal(size=expected.shape)
    dx, dweight, _ = reference.conv2d_backward(dy, x, weight, stride=(2, 1))
    assert_close(layer.backward(device.asarray(dy)), dx, 1e-12, 1e-12, device=device)
    assert_close(layer["conv"].weight.grad, dweight, 1e-12, 1e-12, device=device)
    assert_close(layer["bias"].bias.grad, dy.sum(axis=0), 1e-12, 1e-12, device=device)
    with refused("bias (PositionBias)", "expected input (N, 4, 2, 3)", "(2, 4, 2, 4)", error=ValueError):
        layer(device.asarray(rng.normal(size=(2, 3, 6, 6))))


def test_paddle_conv_transposed(device, rng):
    x = rng.normal(size=(2, 4, 3, 5))
    options = {"stride": (2, 3), "padding": (1, 0), "output_padding": (1, 2), "groups": 2}
    layer = ConvTranspose2d(4, 6, (3, 2), **options, rng=rng, dtype=np.float64)
    weight = layer.weight.data.copy()
    y = reference_layers.conv_transpose2d(x, weight, **options)
    assert y.shape == (2, 6, 6, 16)
    layer.to(device)
    assert_close(layer(device.asarray(x)), y, 1e-10, 1e-12, device=device)
    dy = rng.normal(size=y.shape)
    dx, dweight, dbias = reference_layers.conv_transpose2d_backward(dy, x, weight, **options)
    assert_close(layer.backward(device.asarray(dy)), dx, 1e-10, 1e-12, device=device)
    assert_close(layer.weight.grad, dweight, 1e-10, 1e-12, device=device)
    assert_close(layer.bias.grad, dbias, 1e-10, 1e-12, device=device)


def test_paddle_conv_smart_initialisation(rng):
    """Paddle's `initial_smart`: mean 0 and standard deviation √(2 / (filter size² · channels)), biases 0."""
    layer = Conv2d(30, 200, 5, rng=rng)
    assert layer.weight.data.std() == pytest.approx(np.sqrt(2 / (25 * 30)), rel=0.01)
    assert abs(layer.weight.data.mean()) < 0.001
    assert not layer.bias.data.any()


@pytest.mark.gpu
def test_paddle_conv_chooses_the_device_itself(rng):
    first_gpu_or_cpu = next((device for device in available_devices()[0] if device is not CPU), CPU)
    model = Sequential(Conv2d(1, 2, 3)).to("auto")
    assert model.device is xpcnn.device("auto") is first_gpu_or_cpu
    assert Sequential(Conv2d(1, 2, 3)).to(STRICT).device is STRICT
