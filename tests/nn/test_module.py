"""Modules: names, saved weights, what is kept between forward and backward, and agreement with PyTorch."""

import copy
import pickle
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers import assert_close
from inputs import refused
from pytorch import single_threaded_torch

from xpcnn.backend import CPU, device_of
from xpcnn.models import build_model, lenet5
from xpcnn.nn import (
    Conv2d,
    CrossEntropyLoss,
    Dropout,
    Flatten,
    Linear,
    MaxPool2d,
    Module,
    Parameter,
    ReLU,
    Sequential,
)


def a_network(seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    network = Sequential(
        features=Sequential(
            Conv2d(2, 6, 3, padding=1, rng=rng, dtype=dtype),
            ReLU(),
            MaxPool2d(3, stride=2, padding=1),
            Conv2d(6, 8, (3, 1), padding="same", groups=2, bias=False, rng=rng, dtype=dtype),
            ReLU(),
        ),
        flatten=Flatten(),
        classifier=Linear(8 * 4 * 5, 3, rng=rng, dtype=dtype),
    )
    for name, array in network.state_dict().items():
        if name.endswith("bias"):
            array[...] = rng.normal(size=array.shape)
    return network


def pytorchs_network(torch):
    nn = torch.nn
    features = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.Conv2d(6, 8, (3, 1), padding="same", groups=2, bias=False),
        nn.ReLU(),
    )
    named = OrderedDict(features=features, flatten=nn.Flatten(), classifier=nn.Linear(8 * 4 * 5, 3))
    return nn.Sequential(named).double()


def pytorchs_lenet5(torch):
    nn = torch.nn
    named = OrderedDict(conv1=nn.Conv2d(1, 6, 5, padding=2), relu1=nn.ReLU(), pool1=nn.MaxPool2d(2))
    named |= OrderedDict(conv2=nn.Conv2d(6, 16, 5), relu2=nn.ReLU(), pool2=nn.MaxPool2d(2), flatten=nn.Flatten())
    named |= OrderedDict(fc1=nn.Linear(400, 120), relu3=nn.ReLU(), fc2=nn.Linear(120, 84), relu4=nn.ReLU())
    return nn.Sequential(named | OrderedDict(fc3=nn.Linear(84, 10))).double()


def host_state(module):
    return {name: device_of(array).to_host(array).copy() for name, array in module.state_dict().items()}


@pytest.mark.parametrize("way", ["from PyTorch", "to PyTorch"])
@pytest.mark.parametrize("network", ["small", "lenet5"])
def test_weights_travel_and_gradients_equal_pytorchs(network, way, device, rng):
    torch = single_threaded_torch()
    if network == "small":
        ours, theirs, shape, classes = a_network(), pytorchs_network(torch), (5, 2, 8, 9), 3
    else:
        ours, theirs, shape, classes = lenet5(dtype=np.float64), pytorchs_lenet5(torch), (5, 1, 28, 28), 10
    ours.to(device)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    if way == "from PyTorch":
        ours.load_state_dict({name: tensor.numpy() for name, tensor in theirs.state_dict().items()})
    else:
        theirs.load_state_dict({name: torch.tensor(array) for name, array in host_state(ours).items()})

    x, labels = rng.normal(size=shape), rng.integers(0, classes, 5)
    tensor = torch.tensor(x, requires_grad=True)
    expected = theirs(tensor)
    expected_loss = torch.nn.functional.cross_entropy(expected, torch.tensor(labels))
    expected_loss.backward()

    loss = CrossEntropyLoss()
    y = ours(device.asarray(x))
    assert_close(y, expected.detach().numpy(), 1e-10, 1e-12, device=device)
    assert_close(loss(y, device.asarray(labels)), expected_loss.detach().numpy(), 1e-10, device=device)
    assert_close(ours.backward(loss.backward()), tensor.grad.numpy(), 1e-10, 1e-14, device=device)
    gradients = {name: parameter.grad.numpy() for name, parameter in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        assert_close(parameter.grad, gradients[name], 1e-10, 1e-13, device=device)


class Scaled(Module):
    """A user's own: a parameter of its own before those of the modules it holds."""

    def __init__(self):
        super().__init__()
        self.scale = Parameter(np.full(1, 2.0))
        self.inner = Sequential(Linear(3, 3, dtype=np.float64), ReLU())
        self.last = Linear(3, 2, bias=False, dtype=np.float64)
        self.not_a_parameter = np.ones(3)

    def forward(self, x):
        return self.last(self.inner(x * self.scale.data))


def test_parameters_and_modules_are_found_by_name():
    module = Scaled()
    assert [name for name, _ in module.named_modules()] == ["", "inner", "inner.0", "inner.1", "last"]
    names = ["scale", "inner.0.weight", "inner.0.bias", "last.weight"]
    assert list(module.state_dict()) == names
    assert [id(p) for p in module.parameters()] == [id(p) for _, p in module.named_parameters()]
    assert module.count_parameters() == 1 + 9 + 3 + 6
    network = Sequential(Linear(1, 2), last=module)
    assert [name for name, _ in network.named_parameters()] == [
        "0.weight",
        "0.bias",
        *(f"last.{name}" for name in names),
    ]
    assert (len(network), network[1], network["last"], list(network)[1]) == (2, module, module, module)


def test_repr_shows_the_network():
    assert repr(
        Sequential(Conv2d(2, 4, 3, padding=1), ReLU(), head=Sequential(Flatten(), out=Linear(4, 2, bias=False)))
    ) == (
        "Sequential(\n"
        "  (0): Conv2d(2, 4, kernel_size=(3, 3), stride=1, padding=1, dilation=1, groups=1, bias=True)\n"
        "  (1): ReLU()\n"
        "  (head): Sequential(\n"
        "    (0): Flatten()\n"
        "    (out): Linear(4, 2, bias=False)\n"
        "  )\n"
        ")"
    )
    assert repr(Linear(4, 2).weight) == "Parameter(shape=(2, 4), dtype=float32, device='cpu')"


def test_loading_copies_into_the_parameters(device):
    ours, other = a_network(0, np.float32).to(device), a_network(1)
    arrays = dict(ours.state_dict())
    ours.load_state_dict(other.state_dict())
    for name, array in other.state_dict().items():
        assert ours.state_dict()[name] is arrays[name]
        assert_close(arrays[name], array.astype(np.float32), 0, 0, device=device)
        assert array.any()
        array[...] = 0
        assert device.to_host(arrays[name]).any()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"classifier.bias": None}, ["missing ['classifier.bias']", "unknown none"]),
        ({"classifier.scale": np.zeros(3)}, ["missing none", "unknown ['classifier.scale']"]),
        ({"classifier.bias": np.zeros(4)}, ["classifier.bias", "(3,)", "(4,)"]),
        ({"classifier.bias": np.array(["a", "b", "c"])}, []),
    ],
)
def test_loading_is_all_or_nothing(change, words, device):
    ours = a_network(0).to(device)
    before = host_state(ours)
    state = {name: array for name, array in (host_state(a_network(1)) | change).items() if array is not None}
    with refused(*words, error=(ValueError, TypeError)):
        ours.load_state_dict(state)
    for name, array in ours.state_dict().items():
        assert_close(array, before[name], 0, 0, device=device)


def test_loading_what_fits(device):
    """With strict=False what fits is copied, the rest stays, and all three kinds of misfit are reported."""
    ours = a_network(0).to(device)
    before, other = host_state(ours), host_state(a_network(1))
    state = other | {"classifier.bias": np.zeros(4), "extra": np.zeros(2)}
    first = next(iter(before))
    del state[first]
    fit = ours.load_state_dict(state, strict=False)
    assert fit == ([first], ["extra"], {"classifier.bias": ((3,), (4,))})
    for name, array in ours.state_dict().items():
        expected = before if name in (first, "classifier.bias") else other
        assert_close(array, expected[name], 0, 0, device=device)
    assert ours.load_state_dict(other) == ([], [], {})


def test_moving_and_converting(device, rng):
    ours, x = a_network(), rng.normal(size=(4, 2, 8, 9))
    expected, values = ours(x), host_state(ours)
    ours.backward(np.ones_like(expected))
    assert ours.device is CPU
    assert ours.to(device) is ours
    assert ours.device is device
    assert all(parameter.grad is None for parameter in ours.parameters())
    assert_close(ours(device.asarray(x)), expected, 1e-12, 1e-13, device=device)
    ours.to(dtype=np.float32)
    for name, array in ours.state_dict().items():
        assert_close(array, values[name].astype(np.float32), 0, 0, device=device)
    assert_close(ours(device.asarray(x, np.float32)), expected.astype(np.float32), 1e-5, 1e-5, device=device)
    assert ours.to("cpu", np.float64).device is CPU
    assert ours(x).dtype == np.float64
    assert Sequential(ReLU()).device is CPU


def test_gradients_add_up_until_they_are_forgotten(device, rng):
    ours, x, dy = a_network().to(device), rng.normal(size=(6, 2, 8, 9)), rng.normal(size=(6, 3))
    ours(device.asarray(x))
    ours.backward(device.asarray(dy))
    whole = {name: device.to_host(parameter.grad) for name, parameter in ours.named_parameters()}
    ours.zero_grad()
    assert all(parameter.grad is None for parameter in ours.parameters())
    for part in (slice(0, 2), slice(2, 6)):
        ours(device.asarray(x[part]))
        ours.backward(device.asarray(dy[part]))
    for name, parameter in ours.named_parameters():
        assert_close(parameter.grad, whole[name], 1e-10, 1e-12, device=device)


def test_skipping_the_input_gradient_leaves_the_others(device, rng):
    x, dy = rng.normal(size=(5, 2, 8, 9)), rng.normal(size=(5, 3))
    gradients = []
    for wanted in (True, False):
        # A layer without parameters before the first that has some, and a network inside the network.
        ours = Sequential(first=Sequential(ReLU(), ReLU()), network=a_network()).to(device)
        ours(device.asarray(x))
        dx = ours.backward(device.asarray(dy), input_gradient=wanted)
        assert (dx is not None) == wanted
        gradients.append([device.to_host(parameter.grad) for parameter in ours.parameters()])
        assert [name for name, module in ours.named_modules() if module._cache is not None] == []
    for one, other in zip(*gradients, strict=True):
        assert np.array_equal(one, other)


def test_only_the_first_trained_layer_may_skip_its_input_gradient():
    class Asked(Linear):
        def backward(self, dy, *, input_gradient=True):
            asked.append(input_gradient)
            return super().backward(dy, input_gradient=input_gradient)

    asked = []
    ours = Sequential(ReLU(), Sequential(Asked(3, 3), ReLU(), Asked(3, 3)), Asked(3, 3))
    for wanted in (False, True):
        ours(np.ones((2, 3), np.float32))
        ours.backward(np.ones((2, 3), np.float32), input_gradient=wanted)
    assert asked == [True, True, False, True, True, True]


def every_layer():
    """Return layers with the shape of an input each takes."""
    image = (2, 2, 4, 4)
    return [
        (Conv2d(2, 3, 3), image),
        (MaxPool2d(2), image),
        (ReLU(), image),
        (Dropout(), image),
        (Flatten(), image),
        (Linear(5, 4), (2, 5)),
        (Sequential(Conv2d(2, 3, 3), ReLU()), image),
    ]


@pytest.mark.parametrize(("layer", "shape"), every_layer(), ids=lambda value: type(value).__name__)
def test_backward_needs_a_forward_pass_in_training(layer, shape):
    name = "ReLU" if isinstance(layer, Sequential) else type(layer).__name__
    x = np.ones(shape, np.float32)
    dy = np.ones_like(layer(x))
    layer.backward(dy)
    with refused(name, "forward pass in training mode", error=RuntimeError):
        layer.backward(dy)  # what the forward pass kept is used up
    layer.eval()
    layer(x)
    with refused(name, error=RuntimeError):
        layer.backward(dy)
    layer.train()
    layer(x)
    layer.eval()
    with refused(name, error=RuntimeError):
        layer.backward(dy)


def test_evaluation_keeps_nothing_and_may_be_shared_by_threads(device, rng):
    ours = Sequential(a_network(), Dropout()).to(device).eval()
    inputs = [device.asarray(rng.normal(size=(n, 2, 8, 9))) for n in (1, 40, 3, 40, 64, 2, 40, 5)]
    expected = [device.to_host(ours(x)) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            for y, one in zip(pool.map(ours, inputs), expected, strict=True):
                assert_close(y, one, 0, 0, device=device)
    assert all(module._cache is None and not module.training for _, module in ours.named_modules())


@pytest.mark.parametrize(
    ("shape", "dtype", "words"),
    [
        ((4, 3, 8, 9), np.float64, ["features (Sequential): 0 (Conv2d):", "(N, 2, H, W)", "(4, 3, 8, 9)"]),
        ((4, 2, 8, 8), np.float64, ["classifier (Linear):", "(N, 160)", "(4, 128)"]),
        ((4, 2, 8, 9), np.float32, ["features (Sequential): 0 (Conv2d):", "float64", "float32"]),
        ((4, 144), np.float64, ["features (Sequential): 0 (Conv2d):", "(N, C, H, W)", "(4, 144)"]),
    ],
)
def test_errors_name_the_layer(shape, dtype, words, device):
    with refused(*words):
        a_network().to(device)(device.asarray(np.zeros(shape, dtype)))


def test_an_input_that_is_no_array_is_refused_by_name():
    with refused("conv1 (Conv2d)", "array", "list", error=TypeError):
        lenet5()([[1.0, 2.0]])


def test_models_by_name():
    assert lenet5().count_parameters() == 61_706
    one, same, other = (host_state(build_model("lenet5", (3, 32, 40), 7, seed=seed)) for seed in (1, 1, 2))
    assert one["fc3.weight"].shape == (7, 84)
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert not np.array_equal(one["conv1.weight"], other["conv1.weight"])
    assert build_model("lenet5", (3, 32, 40), 7)(np.zeros((2, 3, 32, 40), np.float32)).shape == (2, 7)
    assert lenet5((1, 12, 13))(np.zeros((2, 1, 12, 13), np.float32)).shape == (2, 10)
    with refused("12×12", "11×28"):
        lenet5((1, 11, 28))
    with refused("'lenet6'", "lenet5"):
        build_model("lenet6", (1, 28, 28), 10)


def test_a_copy_has_the_gradients_that_were_still_on_their_way(rng):
    model = Sequential(Conv2d(8, 8, 3, padding=1, rng=rng))
    x = rng.standard_normal((64, 8, 32, 32), np.float32)
    model.backward(model(x))
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert np.array_equal(copied[0].weight.grad, model[0].weight.grad)
        assert copied[0].weight.grad is not model[0].weight.grad


def test_gradients_of_several_passes_are_added_up_and_not_kept():
    parameter, asked = Parameter(np.zeros(3)), []
    for i in range(1, 4):
        parameter.add_pending(lambda i=i: asked.append(i) or np.full(3, float(i)))
        assert asked == list(range(1, i))
    assert np.array_equal(parameter.grad, [6, 6, 6])
    parameter.add_pending(lambda: asked.append("forgotten"))
    parameter.grad = None
    assert parameter.grad is None
    assert asked == [1, 2, 3]
