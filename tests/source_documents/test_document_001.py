"""The layers, the three-layer network and the solver of CS231n's second assignment."""

import sys

import numpy as np
import pytest
import reference
from documents import gradient_errors, module_gradient_errors, relative_error
from helpers import assert_close, load_script

from xpcnn import functional as F
from xpcnn.data import DATASETS, Dataset
from xpcnn.data.formats.images import read_image
from xpcnn.models import three_layer_net
from xpcnn.nn import BatchNorm2d, CrossEntropyLoss, L2Penalty, conv_relu, conv_relu_pool

CONV_OUTPUT = [
    [
        [[-0.08759809, -0.10987781], [-0.18387192, -0.2109216]],
        [[0.21027089, 0.21661097], [0.22847626, 0.23004637]],
        [[0.50813986, 0.54309974], [0.64082444, 0.67101435]],
    ],
    [
        [[-0.98053589, -1.03143541], [-1.19128892, -1.24695841]],
        [[0.69108355, 0.66880383], [0.59480972, 0.56776003]],
        [[2.36270298, 2.36904306], [2.38090835, 2.38247847]],
    ],
]
POOL_OUTPUT = [
    [
        [[-0.26315789, -0.24842105], [-0.20421053, -0.18947368]],
        [[-0.14526316, -0.13052632], [-0.08631579, -0.07157895]],
        [[-0.02736842, -0.01263158], [0.03157895, 0.04631579]],
    ],
    [
        [[0.09052632, 0.10526316], [0.14947368, 0.16421053]],
        [[0.20842105, 0.22315789], [0.26736842, 0.28210526]],
        [[0.32631579, 0.34105263], [0.38526316, 0.4]],
    ],
]


def linspace(start, stop, *shape):
    return np.linspace(start, stop, num=np.prod(shape)).reshape(shape)


def test_conv_forward(device):
    arrays = (linspace(-0.1, 0.5, 2, 3, 4, 4), linspace(-0.2, 0.3, 3, 3, 4, 4), linspace(-0.1, 0.2, 3))
    y, _ = F.conv2d_forward(*map(device.asarray, arrays), stride=2, padding=1)
    assert_close(y, CONV_OUTPUT, 0, 5.1e-9, device=device)  # the digits printed
    assert relative_error(device.to_host(y), CONV_OUTPUT) == pytest.approx(2.21214764175e-08, rel=1e-6)


def test_conv_backward(device, rng):
    arrays = [rng.normal(size=shape) for shape in [(4, 3, 5, 5), (2, 3, 3, 3), (2,)]]
    kept = []

    def forward(*arrays):
        y, cache = F.conv2d_forward(*arrays, stride=1, padding=1)
        kept[:] = [cache]
        return y

    dy = rng.normal(size=(4, 2, 5, 5))
    assert max(gradient_errors(device, rng, forward, lambda dy: F.conv2d_backward(dy, *kept), arrays, dy, 1e-4)) < 1e-8


def test_pool_forward(device):
    y, _ = F.max_pool2d_forward(device.asarray(linspace(-0.3, 0.4, 2, 3, 4, 4)), 2, stride=2)
    assert_close(y, POOL_OUTPUT, 0, 5.1e-9, device=device)
    assert relative_error(device.to_host(y), POOL_OUTPUT) == pytest.approx(4.16666651573e-08, rel=1e-6)


def test_pool_backward(device, rng):
    kept = []

    def forward(x):
        y, cache = F.max_pool2d_forward(x, 2, stride=2)
        kept[:] = [cache]
        return y

    def backward(dy):
        return [F.max_pool2d_backward(dy, *kept)]

    arrays, dy = [rng.normal(size=(3, 2, 8, 8))], rng.normal(size=(3, 2, 4, 4))
    assert max(gradient_errors(device, rng, forward, backward, arrays, dy)) < 1e-10


@pytest.fixture
def photograph():
    """A real photograph, which comes with matplotlib: `(3, 200, 200)` uint8."""
    cbook = pytest.importorskip("matplotlib.cbook", reason="pictures need the viz extra")
    return read_image(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False), (3, 200, 200), drawing=False)[0]


def test_image_filters(device, photograph):
    halves = np.zeros((3, 200, 200), np.uint8)  # beside the photograph, one whose edges are known
    halves[2, :120] = 200
    halves[2, 120:] = 50
    halves[0, :, 100:] = 255  # an upright edge, and in red: no concern of the second filter
    images = np.stack([photograph, halves])
    maps = device.to_host(load_script("image_filters").filtered(images, device))

    red, green, blue = images.astype(float).transpose(1, 0, 2, 3)
    np.testing.assert_allclose(maps[:, 0], 0.3 * red + 0.6 * green + 0.1 * blue, rtol=1e-12)
    padded = np.pad(blue, ((0, 0), (1, 1), (1, 1)))
    across = padded[:, :, :-2] + 2 * padded[:, :, 1:-1] + padded[:, :, 2:]  # smoothed along each row
    np.testing.assert_allclose(maps[:, 1], 128 + across[:, :-2] - across[:, 2:], rtol=1e-12)

    edges = np.abs(maps[:, 1, 1:-1, 1:-1] - 128)
    assert edges[1].argmax(axis=0).min() in (118, 119)
    np.testing.assert_array_equal(edges[1, :, 0] > 0, np.isin(np.arange(198), (118, 119)))
    np.testing.assert_array_equal(edges[1, 118:120], 600)
    # In the photograph the strongest edges are where blue changes most from the row above to the row below.
    change = np.abs(blue[0, 2:, 1:-1] - blue[0, :-2, 1:-1])
    strongest = edges[0] >= np.quantile(edges[0], 0.98)
    assert change[strongest].mean() > 5 * change.mean()


def test_image_filters_picture(tmp_path, monkeypatch, capsys, photograph):
    """The script writes a 2×3 figure: its titles and values are those of `viz.filtered_images`, tested there."""
    from PIL import Image

    files = [tmp_path / "one.png", tmp_path / "two.png"]
    for file, image in zip(files, (photograph, photograph[:, ::-1]), strict=True):
        Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).save(file)
    image_filters = load_script("image_filters")
    figures = []
    draw = image_filters.viz.filtered_images
    monkeypatch.setattr(image_filters.viz, "filtered_images", lambda *args: figures.append(draw(*args)) or figures[0])
    output = tmp_path / "picture.png"
    arguments = ["image_filters", *map(str, files), "--device", "cpu", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", arguments)
    image_filters.main()
    shown = [axes.images[0].get_array() for axes in figures[0].axes]
    assert len(shown) == 6
    np.testing.assert_array_equal(shown[0], photograph.transpose(1, 2, 0))
    np.testing.assert_allclose(shown[4], shown[1][::-1], rtol=1e-12)  # what is upside down is grey alike
    with Image.open(output) as picture:
        assert np.asarray(picture.convert("L")).std() > 20
    assert "one.png, two.png" in capsys.readouterr().out
    assert image_filters.photographs_at_hand()


def test_fast_layers(device, rng):
    x, weight, bias = rng.normal(size=(2, 3, 15, 15)), rng.normal(size=(5, 3, 3, 3)), rng.normal(size=5)
    options = {"stride": (2, 2), "padding": (1, 1)}
    y, cache = F.conv2d_forward(*map(device.asarray, (x, weight, bias)), **options)
    slow = reference.conv2d(x, weight, bias, **options)
    assert_close(y, slow, 1e-12, 1e-13, device=device)
    dy = rng.normal(size=slow.shape)
    fast_gradients = F.conv2d_backward(device.asarray(dy), cache)
    for fast, gradient in zip(fast_gradients, reference.conv2d_backward(dy, x, weight, **options), strict=True):
        assert_close(fast, gradient, 1e-11, 1e-12, device=device)
    y, cache = F.max_pool2d_forward(device.asarray(x), 3, stride=2)
    slow, winners = reference.max_pool2d(x, (3, 3), stride=(2, 2))
    assert_close(y, slow, 0, 0, device=device)
    dy = rng.normal(size=slow.shape)
    expected = reference.max_pool2d_backward(dy, x, winners)
    assert_close(F.max_pool2d_backward(device.asarray(dy), cache), expected, 1e-14, 1e-14, device=device)


@pytest.mark.parametrize(
    ("make", "x_shape"), [(conv_relu, (2, 3, 8, 8)), (conv_relu_pool, (2, 3, 16, 16))], ids=["conv-relu", "and-pool"]
)
def test_sandwiches(device, rng, make, x_shape):
    sandwich = make(3, 3, 3, padding=1, rng=rng, dtype=np.float64)
    sandwich["conv"].bias.data[...] = rng.normal(size=3)
    x, dy = rng.normal(size=x_shape), rng.normal(size=(2, 3, 8, 8))
    assert max(module_gradient_errors(device, rng, sandwich.to(device), x, dy)) < 1e-6


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_three_layer_net_initial_loss(device, rng, dtype):
    model = three_layer_net(dtype=dtype).to(device)
    assert {parameter.data.dtype for parameter in model.parameters()} == {np.dtype(dtype)}
    logits = model(device.asarray(rng.normal(size=(50, 3, 32, 32)), dtype))
    labels = device.asarray(rng.integers(0, 10, 50))
    assert float(CrossEntropyLoss()(logits, labels)) == pytest.approx(2.3026, abs=1e-4)
    assert float(L2Penalty(CrossEntropyLoss(), model, 0.5)(logits, labels)) == pytest.approx(2.5087, abs=2e-3)


@pytest.mark.parametrize("reg", [0, 0.5])
def test_three_layer_net_gradients(device, rng, reg):
    """With a weight scale of 0.1: gradients at the usual 0.001 are lost in the rounding of a difference of losses."""
    options = {"num_filters": 3, "filter_size": 3, "hidden_dim": 7, "weight_scale": 0.1, "dtype": np.float64}
    model = three_layer_net((3, 16, 16), **options).to(device)
    x, labels = device.asarray(rng.normal(size=(2, 3, 16, 16))), device.asarray(rng.integers(0, 10, 2))
    loss = L2Penalty(CrossEntropyLoss(), model, reg)
    parameters = list(model.parameters())

    def forward(*values):
        for parameter, value in zip(parameters, values, strict=True):
            parameter.data = value
        return loss(model(x), labels)

    def backward(dy):
        model.backward(loss.backward())
        return [parameter.grad for parameter in parameters]

    values = [device.to_host(parameter.data).copy() for parameter in parameters]
    assert max(gradient_errors(device, rng, forward, backward, values, np.ones(()), sample=50)) < 1e-5


def stripes(rng, count):
    """Return a data set in CIFAR-10's shape whose class is told by colour and by the direction of stripes."""
    labels = rng.integers(0, 10, count)
    lines = np.where(np.arange(32) // 4 % 2, 200, 40)
    images = rng.integers(0, 56, (count, 3, 32, 32))
    for image, label in zip(images, labels, strict=True):
        image[label % 3] += lines if label % 2 else lines[:, None]
        image[(label + 1) % 3] += 150 * (label > 5)
    info = DATASETS["cifar10"]
    return Dataset(images.astype(np.uint8), labels, classes=info.classes, mean=info.mean, std=info.std)


@pytest.mark.parametrize("device", ["cpu", "cuda"], indirect=True)  # the make-believe device takes minutes
@pytest.mark.real_gpu("it trains for minutes on an emulated one")
def test_solver(device, rng, capsys):
    """The script's own function and network, on 600 made-up images instead of CIFAR-10's 49,000."""
    viz = pytest.importorskip("xpcnn.viz")
    pytest.importorskip("matplotlib", reason="pictures need the viz extra")
    training, validation = stripes(rng, 600), stripes(rng, 100)
    model, losses, records = load_script("three_layer_cifar10").solve(training, validation, device=device)
    assert model.device is device
    shapes = {name: parameter.data.shape for name, parameter in model.named_parameters()}
    assert shapes["conv1.weight"] == (32, 3, 7, 7)
    assert shapes["fc1.weight"] == (500, 32 * 16 * 16)
    assert len(losses) == 12
    assert losses[0] == pytest.approx(np.log(10) + 0.0005 * 1e-6 * (32 * 147 + 500 * 8192 + 5000), abs=1e-3)
    assert np.mean(losses[-3:]) < 0.8 * losses[0]
    assert [record["epoch"] for record in records] == [0, 1]
    assert records[1]["train_accuracy"] > records[0]["train_accuracy"] + 0.2
    assert records[1]["test_accuracy"] > records[0]["test_accuracy"] + 0.2

    by_iteration = viz.loss_curve(losses).axes[0].lines[0]
    np.testing.assert_allclose(by_iteration.get_ydata(), losses)
    accuracy = viz.curves(records).axes[1]
    assert [line.get_label() for line in accuracy.lines] == ["train", "test"]
    np.testing.assert_allclose(accuracy.lines[1].get_ydata(), [record["test_accuracy"] for record in records])
    weight = device.to_host(model["conv1"].weight.data)
    shown = [axes.images[0].get_array() for axes in viz.filters(model["conv1"].weight.data).axes if axes.images]
    assert len(shown) == 32
    for image, values in zip(shown, weight.transpose(0, 2, 3, 1), strict=True):
        np.testing.assert_allclose(image, (values - values.min()) / np.ptp(values), atol=1e-6)


def test_spatial_batchnorm(device, rng):
    layer = BatchNorm2d(4, dtype=np.float64)
    layer.weight.data[...], layer.bias.data[...] = [3, 4, 5, 6], [7, 8, 9, 10]
    layer.to(device)
    mean, variance = np.zeros((4, 1, 1)), np.ones((4, 1, 1))
    for _ in range(20):
        x = 12 + 2.3 * rng.normal(size=(5, 4, 3, 6))
        y = device.to_host(layer(device.asarray(x)))
        mean = 0.9 * mean + 0.1 * x.mean(axis=(0, 2, 3)).reshape(4, 1, 1)
        variance = 0.9 * variance + 0.1 * x.var(axis=(0, 2, 3), ddof=1).reshape(4, 1, 1)
        np.testing.assert_allclose(y.mean(axis=(0, 2, 3)), [7, 8, 9, 10], rtol=1e-12)
        np.testing.assert_allclose(y.std(axis=(0, 2, 3)), [3, 4, 5, 6], rtol=1e-5)
    layer.eval()
    scale, shift = np.arange(3.0, 7).reshape(4, 1, 1), np.arange(7.0, 11).reshape(4, 1, 1)
    expected = scale * (x - mean) / np.sqrt(variance + 1e-5) + shift
    assert_close(layer(device.asarray(x)), expected, 1e-12, 1e-12, device=device)

    x, dy = 12 + 5 * rng.normal(size=(2, 4, 3, 2)), rng.normal(size=(2, 4, 3, 2))
    assert (
        max(module_gradient_errors(device, rng, layer.train(), x, dy)) < 1e-5
    )  # what rounding leaves of a numeric gradient


@pytest.mark.parametrize("device", ["cpu", "cuda"], indirect=True)  # the make-believe device takes minutes
@pytest.mark.real_gpu("it trains for minutes on an emulated one")
def test_ninety_percent(device, rng, tmp_path):
    """The script's own machinery on made-up images; the accuracy on CIFAR-10's is stated in the script."""
    recipe = load_script("train_cifar10")
    options = {"epochs": 5, "batch_size": 40, "widths": (16, 32, 64)}
    trainer, loader = recipe.make_trainer(stripes(rng, 200), **options)
    whitened = trainer.model["whiten"](next(iter(recipe.Loader(loader.dataset, 200)))[0])
    components = whitened[:, :12].transpose(1, 0, 2, 3).reshape(12, -1)
    np.testing.assert_allclose(components @ components.T / components.shape[1], np.eye(12), atol=0.02)
    fixed = trainer.model["whiten"].weight.data.copy()

    trainer.model.to(device)
    first = trainer.fit(loader, 4)  # the bias of the first layer stops learning after three
    trainer.checkpoint({}).save(tmp_path / "checkpoint.safetensors")
    records = trainer.fit(loader, 5)
    assert records[-1]["train_loss"] < 0.8 * first[0]["train_loss"]
    assert records[-1]["train_accuracy"] > 0.5
    assert_close(trainer.model["whiten"].weight.data, fixed, 0, 0, device=device)
    assert trainer.model["whiten"].frozen
    assert device.to_host(trainer.model["whiten"].bias.data).any()

    resumed, loader = recipe.make_trainer(loader.dataset, **options)
    resumed.resume(recipe.Checkpoint.load(tmp_path / "checkpoint.safetensors"))
    resumed.model.to(device)
    resumed.fit(loader, 5)
    for name, array in resumed.model.state_dict().items():
        assert_close(array, trainer.model.state_dict()[name], 0, 0)
