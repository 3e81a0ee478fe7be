"""Every network against the same one in PyTorch, with the same weights; and what each is known for."""

from collections import OrderedDict
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import strict_xp
from helpers import assert_close, to_device
from inputs import refused
from pytorch import single_threaded_torch
from torchvision_networks import (
    theirs_convnext,
    theirs_mobilenet_v2,
    theirs_resnet18,
)

from xpcnn.models import (
    MODELS,
    build_model,
    compact_cnn,
    convnext,
    convnext_femto,
    convnext_tiny,
    deep_sigmoid_net,
    efficientnet_lite0,
    mlp,
    mobilenet_v2,
    numpy_cnn,
    resnet,
    resnet18,
    resnet20,
    resnet34,
    small_cnn,
    three_layer_net,
    vgg,
    whiten,
    whitened_cnn,
)
from xpcnn.nn import CrossEntropyLoss, L2Penalty
from xpcnn.optim import SGD, RMSprop, clip_grad_norm


def theirs_three_layer_net(torch, channels, height, width, classes, num_filters=4, filter_size=5, hidden_dim=7):
    nn = torch.nn
    layers = {"conv1": nn.Conv2d(channels, num_filters, filter_size, padding="same"), "relu1": nn.ReLU()}
    layers |= {"pool1": nn.MaxPool2d(2), "flatten": nn.Flatten()}
    layers |= {"fc1": nn.Linear(num_filters * (height // 2) * (width // 2), hidden_dim), "relu2": nn.ReLU()}
    return nn.Sequential(OrderedDict(layers | {"fc2": nn.Linear(hidden_dim, classes)}))


def theirs_numpy_cnn(torch, channels, height, width, classes):
    nn = torch.nn
    layers = {"conv1": nn.Conv2d(channels, 3, 5), "relu1": nn.ReLU(), "pool1": nn.MaxPool2d(3, 2)}
    layers |= {"flatten": nn.Flatten(), "fc1": nn.LazyLinear(84), "relu2": nn.ReLU(), "fc2": nn.Linear(84, classes)}
    return nn.Sequential(OrderedDict(layers))


def theirs_deep_sigmoid_net(torch, channels, height, width, classes):
    nn = torch.nn
    layers = {"conv1": nn.Conv2d(channels, 20, 5), "sigmoid1": nn.Sigmoid()}
    layers |= {"conv2": nn.Conv2d(20, 50, 5), "sigmoid2": nn.Sigmoid(), "flatten": nn.Flatten()}
    layers |= {"fc1": nn.LazyLinear(500), "sigmoid3": nn.Sigmoid(), "fc2": nn.Linear(500, classes)}
    return nn.Sequential(OrderedDict(layers))


def theirs_resnet(torch, channels, height, width, classes, n):
    nn = torch.nn

    class Block(nn.Module):
        def __init__(self, i, o):
            super().__init__()
            stride = 1 if i == o else 2
            layers = {"conv1": nn.Conv2d(i, o, 3, stride, 1, bias=False), "bn1": nn.BatchNorm2d(o), "relu1": nn.ReLU()}
            layers |= {"conv2": nn.Conv2d(o, o, 3, padding=1, bias=False), "bn2": nn.BatchNorm2d(o)}
            self.main = nn.Sequential(OrderedDict(layers))
            way = {"conv": nn.Conv2d(i, o, 1, stride, bias=False), "bn": nn.BatchNorm2d(o)}
            self.shortcut = nn.Sequential(OrderedDict(way)) if i != o else nn.Identity()

        def forward(self, x):
            return torch.relu(self.main(x) + self.shortcut(x))

    layers = {"conv1": nn.Conv2d(channels, 16, 3, padding=1, bias=False), "bn1": nn.BatchNorm2d(16), "relu1": nn.ReLU()}
    for stage, (i, o) in enumerate(((16, 16), (16, 32), (32, 64)), 1):
        layers[f"stage{stage}"] = nn.Sequential(Block(i, o), *(Block(o, o) for _ in range(n - 1)))
    layers |= {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(64, classes)}
    return nn.Sequential(OrderedDict(layers))


def theirs_mlp(torch, channels, height, width, classes, hidden_dim=7):
    nn = torch.nn
    layers = {"flatten": nn.Flatten(), "fc1": nn.Linear(channels * height * width, hidden_dim), "relu1": nn.ReLU()}
    return nn.Sequential(OrderedDict(layers | {"fc2": nn.Linear(hidden_dim, classes)}))


def theirs_small_cnn(torch, channels, height, width, classes):
    nn, layers = torch.nn, {}
    for i, out_channels in enumerate((16, 32), 1):
        layers[f"conv{i}"] = nn.Conv2d(channels, out_channels, 3, padding=1, bias=False)
        layers[f"bn{i}"], layers[f"relu{i}"] = nn.BatchNorm2d(out_channels), nn.ReLU()
        channels = out_channels
    layers |= {"pool": nn.MaxPool2d(2), "flatten": nn.Flatten()}
    layers |= {"fc1": nn.Linear(32 * (height // 2) * (width // 2), 64), "relu3": nn.ReLU()}
    return nn.Sequential(OrderedDict(layers | {"fc2": nn.Linear(64, classes)}))


def theirs_compact_cnn(torch, channels, height, width, classes, stages, hidden_dim):
    nn, layers = torch.nn, {}
    for stage, widths in enumerate(stages, 1):
        for i, out_channels in enumerate(widths, 1):
            kernel, name = 3 if layers else 5, f"{stage}_{i}"
            layers[f"conv{name}"] = nn.Conv2d(channels, out_channels, kernel, padding="same", bias=False)
            layers |= {f"pool{stage}": nn.MaxPool2d(2)} if i == len(widths) else {}
            layers[f"bn{name}"], layers[f"relu{name}"] = nn.BatchNorm2d(out_channels), nn.ReLU()
            channels = out_channels
    layers |= {"flatten": nn.Flatten(), "fc1": nn.LazyLinear(hidden_dim), "relu": nn.ReLU()}
    return nn.Sequential(OrderedDict(layers | {"fc2": nn.Linear(hidden_dim, classes)}))


def theirs_vgg(torch, channels, height, width, classes):
    nn, layers = torch.nn, {}
    for stage, width_here in enumerate((64, 128, 256), 1):
        for i in (1, 2):
            layers[f"conv{stage}_{i}"] = nn.Conv2d(channels, width_here, 3, padding=1, bias=False)
            layers[f"bn{stage}_{i}"], layers[f"relu{stage}_{i}"] = nn.BatchNorm2d(width_here), nn.ReLU()
            channels = width_here
        layers[f"pool{stage}"] = nn.MaxPool2d(2) if stage < 3 else nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(OrderedDict(layers | {"flatten": nn.Flatten(), "fc": nn.Linear(256, classes)}))


def theirs_whitened_cnn(torch, channels, height, width, classes, widths):
    """All convolutions pad on all sides, as in the paper: pooling leaves out what ours does not compute."""
    nn = torch.nn
    layers = {"whiten": nn.Conv2d(channels, 8 * channels, 2), "gelu": nn.GELU("tanh")}
    channels *= 8
    for block, features in enumerate(widths, 1):
        for i in (1, 2):
            layers[f"conv{block}_{i}"] = nn.Conv2d(channels, features, 3, padding=1, bias=False)
            layers |= {f"pool{block}": nn.MaxPool2d(2)} if i == 1 else {}
            layers[f"bn{block}_{i}"] = nn.BatchNorm2d(features, eps=1e-12, momentum=0.4)
            layers[f"gelu{block}_{i}"] = nn.GELU("tanh")
            channels = features
    layers |= {"pool": nn.AdaptiveMaxPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(channels, classes, bias=False)}
    return nn.Sequential(OrderedDict(layers))


STAGES = {"depths": (1, 2, 1), "widths": (4, 6, 8)}
SMALL = {"num_filters": 4, "filter_size": 5, "hidden_dim": 7}
WIDTHS = {"widths": (18, 20, 8)}
COMPACT = {"stages": ((4,), (6, 5)), "hidden_dim": 7}
NETWORKS = {
    "three_layer_net": (lambda *args, **kw: three_layer_net(*args, **kw, **SMALL), theirs_three_layer_net, (3, 9, 12)),
    "numpy_cnn": (numpy_cnn, theirs_numpy_cnn, (1, 28, 28)),
    "deep_sigmoid_net": (deep_sigmoid_net, theirs_deep_sigmoid_net, (2, 12, 10)),
    "resnet, n=1": (lambda *args, **kw: resnet(*args, **kw, n=1), lambda *args: theirs_resnet(*args, 1), (3, 9, 12)),
    "resnet20": (resnet20, lambda *args: theirs_resnet(*args, 3), (3, 6, 8)),
    "vgg": (vgg, theirs_vgg, (3, 8, 6)),
    "compact_cnn": (
        lambda *args, **kw: compact_cnn(*args, **kw, **COMPACT),
        lambda *args: theirs_compact_cnn(*args, **COMPACT),
        (2, 9, 13),
    ),
    "whitened_cnn": (
        lambda *args, **kw: whitened_cnn(*args, **kw, **WIDTHS),
        lambda *args: theirs_whitened_cnn(*args, **WIDTHS),
        (2, 18, 25),
    ),
    "mlp": (lambda *args, **kw: mlp(*args, **kw, hidden_dim=7), theirs_mlp, (2, 3, 5)),
    "small_cnn": (lambda *args, **kw: small_cnn(*args, **kw, dropout=0), theirs_small_cnn, (3, 9, 12)),
    "resnet18": (lambda *args, **kw: resnet18(*args, **kw, width=4), theirs_resnet18, (3, 35, 40)),
    "mobilenet_v2": (
        lambda *args, **kw: mobilenet_v2(*args, **kw, width_mult=0.25, dropout=0),
        theirs_mobilenet_v2,
        (3, 40, 35),
    ),
    "convnext": (
        lambda *args, **kw: convnext(*args, **kw, **STAGES),
        lambda *args: theirs_convnext(*args, **STAGES),
        (3, 17, 22),
    ),
}
# Options and images that make the large networks small, but not so small that an image ends as one value per channel.
QUICK = {
    "convnext_femto": {"in_shape": (2, 33, 64), "depths": (1, 1, 2, 1), "widths": (4, 6, 8, 10)},
    "efficientnet_lite0": {"in_shape": (2, 33, 40)},
    "mobilenet_v2": {"in_shape": (2, 33, 40), "width_mult": 0.25},
    "resnet18": {"in_shape": (2, 33, 40), "width": 8},
    "resnet34": {"in_shape": (2, 33, 40), "width": 8},
}


def small_model(name, **options):
    options = {"in_shape": (2, 14, 13), "classes": 3} | QUICK.get(name, {}) | options
    build = convnext if name == "convnext_femto" else partial(build_model, name)  # its sizes are the name's meaning
    return build(**options), options["in_shape"]


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_and_gradients_equal_pytorchs(name, device, rng):
    """In float64, over a step: outputs, the loss, all gradients, running averages, then outputs in evaluation."""
    torch = single_threaded_torch()
    make, make_theirs, in_shape = NETWORKS[name]
    ours = make(in_shape, 5, dtype=np.float64).to(device)
    x, labels = rng.normal(size=(4, *in_shape)), rng.integers(0, 5, 4)
    theirs = make_theirs(torch, *in_shape, 5)
    with torch.no_grad():
        theirs.eval()(torch.zeros(1, *in_shape))  # gives lazy layers their size
    theirs.double().train()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict({key: tensor.numpy() for key, tensor in theirs.state_dict().items()})

    tensor = torch.tensor(x, requires_grad=True)
    expected = theirs(tensor)
    expected_loss = torch.nn.functional.cross_entropy(expected, torch.tensor(labels))
    expected_loss.backward()
    loss, y = CrossEntropyLoss(), ours(device.asarray(x))
    assert_close(y, expected.detach().numpy(), 1e-9, 1e-10, device=device)
    assert_close(loss(y, device.asarray(labels)), expected_loss.detach().numpy(), 1e-10, device=device)
    dx = ours.backward(loss.backward())
    assert_close(dx, tensor.grad.numpy(), 1e-8, 1e-10 * tensor.grad.abs().max().item(), device=device)
    gradients = {key: parameter.grad.numpy() for key, parameter in theirs.named_parameters()}
    for key, parameter in ours.named_parameters():
        assert_close(parameter.grad, gradients[key], 1e-8, 1e-10, device=device)
    for key, value in theirs.state_dict().items():
        assert_close(ours.state_dict()[key], value.numpy(), 1e-9, 1e-12, device=device)
    expected = theirs.eval()(torch.tensor(x)).detach().numpy()
    assert_close(ours.eval()(device.asarray(x)), expected, 1e-9, 1e-10, device=device)


@pytest.mark.parametrize("name", MODELS)
def test_a_step_reads_nothing_on_the_host(name):
    """Each read would wait for a GPU to come to the end of its work."""
    model, in_shape = small_model(name)
    model, loss = model.to(strict_xp.DEVICE), CrossEntropyLoss()
    optimizer = RMSprop(model.named_parameters(), momentum=0.9)
    x, labels = to_device(strict_xp.DEVICE, np.ones((2, *in_shape), np.float32), np.array([2, 0]))
    with strict_xp.forbid_host_reads():
        for _ in range(2):
            optimizer.zero_grad()
            loss(model(x), labels)
            model.backward(loss.backward(), input_gradient=False)
            clip_grad_norm(model.parameters(), 1)
            optimizer.step()
        model.eval()(x)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_by_name(name):
    """One seed, one network; any number of classes; float32 unless asked otherwise; training and evaluation."""
    one, same, other = (small_model(name, seed=seed)[0].state_dict() for seed in (1, 1, 2))
    assert all(np.array_equal(one[key], same[key]) for key in one)
    assert any(not np.array_equal(one[key], other[key]) for key in one)
    assert {array.dtype.name for array in one.values()} <= {"float32", "int64"}
    model, in_shape = small_model(name, dtype=np.float64)
    x = np.random.default_rng(0).normal(size=(2, *in_shape))
    assert model(x).shape == (2, 3)
    assert model(x).dtype == np.float64
    model.backward(np.ones((2, 3)), input_gradient=False)
    assert all(parameter.grad.any() for key, parameter in model.named_parameters())
    assert model.eval()(x[:1]).shape == (1, 3)


def test_sizes():
    # CS231n's: 32·3·7·7 + 32, 8192·100 + 100, 100·10 + 10.
    assert three_layer_net().count_parameters() == 4736 + 819_300 + 1010
    # 3 filters of 5×5, then 3·11·11 features.
    assert numpy_cnn().count_parameters() == 78 + 363 * 84 + 84 + 850
    assert deep_sigmoid_net().count_parameters() == 520 + 25_050 + 20_000 * 500 + 500 + 5010
    # He et al. 2015: 0.27 million for 20 layers, to which option B adds 16·32 + 32·64 and two norms.
    assert resnet20().count_parameters() == 269_722 + 512 + 64 + 2048 + 128
    for n in (3, 5):
        names = [name for name, _ in resnet(n=n).named_modules()]
        assert sum(name.endswith(("conv1", "conv2")) for name in names) == 6 * n + 1
    # torchvision's.
    assert resnet18().count_parameters() == 11_689_512
    assert resnet34().count_parameters() == 21_797_672
    assert mobilenet_v2().count_parameters() == 3_504_872
    assert efficientnet_lite0().count_parameters() == 4_652_008
    assert convnext_femto().count_parameters() == 5_217_784
    assert convnext_tiny().count_parameters() == 28_589_128
    filters = 3 * 64 + 64 * 64 + 64 * 128 + 128 * 128 + 128 * 256 + 256 * 256
    assert vgg().count_parameters() == 9 * filters + 4 * (64 + 128 + 256) + 2570


def test_whitening_makes_patches_uncorrelated_and_filters_start_as_identities(rng, device):
    model = whitened_cnn((2, 13, 11), 3, widths=(20, 16, 24)).to(device)
    images = rng.normal(size=(50, 2, 13, 11)).cumsum(axis=3) + 1  # neighbours are alike
    images = device.asarray(images, np.float32)
    model["whiten"].bias.data[...] = 7
    whiten(model, images)
    outputs = device.to_host(model["whiten"](images)).transpose(1, 0, 2, 3).reshape(16, -1)
    np.testing.assert_allclose(outputs[:8] @ outputs[:8].T / outputs.shape[1], np.eye(8), atol=0.02)
    np.testing.assert_allclose(outputs[8:], -outputs[:8], rtol=1e-4, atol=1e-4)
    x = device.asarray(rng.normal(size=(2, 16, 10, 10)), np.float32)
    assert_close(model["conv1_1"](x)[:, :16], device.to_host(x), 1e-5, 1e-5, device=device)
    assert whitened_cnn().count_parameters() == 312 + 9 * (24 * 64 + 64**2 + 64 * 256 + 3 * 256**2) + 2304 + 2560


def test_the_scale_of_the_three_layer_nets_weights():
    for scale in (1e-3, 0.05):
        for name, array in three_layer_net(weight_scale=scale).state_dict().items():
            if name.endswith("weight"):
                assert array.std() == pytest.approx(scale, rel=0.1)
            else:
                assert not array.any()


def test_the_three_layer_nets_loss_with_regularisation_in_both_precisions(rng):
    """The penalty's gradient is that of its value: CS231n's check, by directional derivatives."""
    model = three_layer_net((3, 16, 16), num_filters=3, filter_size=3, hidden_dim=7, weight_scale=0.1, dtype=np.float64)
    images, labels = rng.normal(size=(2, 3, 16, 16)), rng.integers(10, size=2)
    loss = L2Penalty(CrossEntropyLoss(), model, 0.7)
    loss(model(images), labels)
    model.backward(loss.backward(), input_gradient=False)
    for parameter in model.parameters():
        start, direction = parameter.data.copy(), rng.normal(size=parameter.data.shape)
        values = []
        for sign in (1, -1):
            parameter.data = start + sign * 1e-6 * direction
            values.append(loss(model(images), labels))
        parameter.data = start
        numeric = (values[0] - values[1]) / 2e-6
        assert np.sum(parameter.grad * direction) == pytest.approx(numeric, rel=1e-5)


def test_the_deep_sigmoid_nets_cost_falls_at_every_step():
    """100 random images of 28×28 pixels, learning rate 0.1, ten steps.

    Only the convolutions are trained, as where the network is from: the linear layers' gradients, from thousands of
    sigmoids around 0.5, are too large for that learning rate.
    """
    rng = np.random.default_rng(1234)
    images, labels = rng.random((100, 1, 28, 28), np.float32), rng.integers(0, 10, 100)
    model, loss = deep_sigmoid_net(), CrossEntropyLoss()
    optimizer = SGD([(name, value) for name, value in model.named_parameters() if name.startswith("conv")], 0.1)
    costs = []
    for _ in range(11):
        costs.append(float(loss(model(images), labels)))
        model.zero_grad()
        model.backward(loss.backward(), input_gradient=False)
        optimizer.step()
    assert all(after < before for before, after in pairwise(costs)), costs


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: three_layer_net((3, 1, 8)), ["2×2", "1×8"]),
        (lambda: numpy_cnn((1, 28, 6)), ["7×7", "28×6"]),
        (lambda: deep_sigmoid_net((1, 8, 28)), ["9×9", "8×28"]),
        (lambda: vgg((3, 3, 32)), ["4×4", "3×32"]),
        (lambda: whitened_cnn((3, 32, 8)), ["9×9", "32×8"]),
        (lambda: whiten(whitened_cnn(), np.zeros((2, 1, 32, 32))), ["3 channels", "(2, 1, 32, 32)"]),
        (lambda: small_cnn((1, 8, 1)), ["2×2", "8×1"]),
        (lambda: compact_cnn((1, 8, 3)), ["4×4", "8×3"]),
        (lambda: resnet(n=0), ["n must", "0"]),
        (lambda: convnext_femto((3, 40, 31)), ["32×32", "40×31"]),
        (lambda: convnext(depths=(1, 2), widths=(4,)), ["2 and 1"]),
        (lambda: mobilenet_v2(width_mult=0), ["width_mult", "0"]),
    ],
)
def test_what_a_network_cannot_take_is_refused(make, words):
    with refused(*words):
        make()
