"""Networks in evaluation mode are rewritten: the same results, and every change of weights or modes is noticed."""

import copy
import pickle
import threading

import numpy as np
import pytest

from xpcnn import models
from xpcnn.backend import to_host
from xpcnn.nn import (
    BatchNorm2d,
    Conv2d,
    Dropout,
    Flatten,
    Identity,
    Linear,
    MaxPool2d,
    Module,
    ReLU,
    Residual,
    Sequential,
)
from xpcnn.nn.containers import rewritten
from xpcnn.nn.evaluation import EVALUATION_RULES, FoldedConv2d
from xpcnn.optim import SGD


def a_norm(rng, channels, dtype=np.float64, **options):
    """A batch norm that has seen something."""
    norm = BatchNorm2d(channels, dtype=dtype, **options)
    norm.running_mean.data = rng.standard_normal(channels).astype(dtype)
    norm.running_var.data = rng.uniform(0.5, 2, channels).astype(dtype)
    if norm.weight is not None:
        norm.weight.data = rng.standard_normal(channels).astype(dtype)
        norm.bias.data = rng.standard_normal(channels).astype(dtype)
    return norm


def a_network(rng, dtype=np.float64):
    options = {"rng": rng, "dtype": dtype}
    block = Sequential(
        Conv2d(6, 6, 3, padding=1, bias=False, **options),
        a_norm(rng, 6, dtype),
        ReLU(),
        Conv2d(6, 6, 3, padding=1, bias=False, **options),
        a_norm(rng, 6, dtype),
    )
    return Sequential(
        Dropout(0.5),
        Conv2d(3, 6, 3, padding=1, **options),
        a_norm(rng, 6, dtype, affine=False),
        Identity(),
        ReLU(),
        Residual(block, activation=ReLU()),
        Conv2d(6, 4, 2, **options),
        ReLU(),
        MaxPool2d(2),
        a_norm(rng, 4, dtype),
        ReLU(),
        Flatten(),
        Linear(4 * 3 * 3, 8, **options),
        ReLU(),
        Dropout(0.5),
        Linear(8, 5, **options),
    )


def one_by_one(module, x):
    """The output of a network, by the modules themselves."""
    if type(module) is Sequential:
        for child in module:
            x = one_by_one(child, x)
        return x
    if type(module) is Residual:
        y = one_by_one(module.main, x) + x
        return y if module.activation is None else module.activation(y)
    return module(x)


@pytest.fixture
def network(rng, device):
    return a_network(rng).to(device).eval()


@pytest.fixture
def images(rng):
    return rng.standard_normal((5, 3, 8, 8))


def output(model, images):
    return to_host(model(model.device.asarray(images)))


def test_the_results_are_those_of_the_modules_one_by_one(network, images):
    expected = to_host(one_by_one(network, network.device.asarray(images)))
    before = {name: to_host(array).copy() for name, array in network.state_dict().items()}
    x = network.device.asarray(images.copy())
    first = network(x)
    np.testing.assert_allclose(to_host(first), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(to_host(x), images)
    kept = to_host(first).copy()
    output(network, images + 1)
    np.testing.assert_array_equal(to_host(first), kept)  # memory of its own
    np.testing.assert_array_equal(output(network, images), kept)
    for name, array in network.state_dict().items():
        np.testing.assert_array_equal(to_host(array), before[name], err_msg=name)


def test_less_is_computed(rng):
    steps = rewritten([(str(i), module) for i, module in enumerate(a_network(rng).eval())], EVALUATION_RULES)
    kinds = [type(module).__name__ for _, module in steps]
    expected = ["FoldedConv2d", "Residual", "FoldedConv2d", "MaxPool2d", "ClipInPlace", "BatchNorm2d", "ClipInPlace"]
    assert kinds == [*expected, "Flatten", "Linear", "ClipInPlace", "Linear"]


def step_of_an_optimizer(model):
    for parameter in model.parameters():
        parameter.grad = parameter.data * 0 + 1
    SGD(model.parameters(), 0.1).step()


def load(model):
    model.load_state_dict({name: array * 1.5 for name, array in model.state_dict().items()})


def assign_a_weight(model):
    model[1].weight.data = model[1].weight.data * 2


def assign_an_average(model):
    model[2].running_mean.data = model[2].running_mean.data + 1


def train_a_little(model):
    model.train()
    model(model.device.asarray(np.ones((4, 3, 8, 8))))
    model.eval()


def write_and_evaluate(model):
    model[1].weight.data *= 2
    model.eval()


def a_part_trains(model):
    model[9].train()


@pytest.mark.parametrize(
    "change",
    [
        step_of_an_optimizer,
        load,
        assign_a_weight,
        assign_an_average,
        train_a_little,
        write_and_evaluate,
        a_part_trains,
        lambda model: model.to(dtype=np.float32).to(dtype=np.float64),
    ],
)
def test_every_change_is_noticed(network, images, change):
    before = output(network, images)
    change(network)
    expected = to_host(one_by_one(network, network.device.asarray(images)))
    found = output(network, images)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    assert (found != before).any()


def test_only_the_known_kinds_are_folded(rng, images):
    class Doubled(Conv2d):
        def forward(self, x):
            return 2 * super().forward(x)

    class Shifted(ReLU):
        def forward(self, x):
            return super().forward(x) - 1

    conv = Doubled(3, 4, 3, rng=rng, dtype=np.float64)
    model = Sequential(conv, a_norm(rng, 4), Shifted()).eval()
    np.testing.assert_array_equal(output(model, images), one_by_one(model, images))
    free = BatchNorm2d(4, dtype=np.float64, track_running_stats=False)
    model = Sequential(Conv2d(3, 4, 3, rng=rng, dtype=np.float64), free).eval()
    np.testing.assert_allclose(output(model, images), one_by_one(model, images), rtol=1e-12)


def test_an_observed_module_is_called(network, images):
    expected, calls = output(network, images), []
    norm = network[2]
    forward = norm.forward
    vars(norm)["forward"] = lambda x: calls.append(1) or forward(x)
    np.testing.assert_allclose(output(network, images), expected, rtol=1e-12)
    assert calls == [1]
    del vars(norm)["forward"]
    output(network, images)
    assert calls == [1]


@pytest.mark.parametrize(
    "modules", [[], [Dropout()], [Identity()], [Dropout(), ReLU()], [Residual(Sequential()), ReLU()]]
)
def test_the_input_is_never_overwritten(modules, images):
    model, kept = Sequential(*modules).eval(), images.copy()
    found = model(images)
    np.testing.assert_array_equal(images, kept)
    np.testing.assert_array_equal(found, one_by_one(model, kept))


def test_errors_name_the_module_of_the_user(network, images):
    with pytest.raises(ValueError, match=r"^1 \(Conv2d\): expected input \(N, 3, H, W\)"):
        output(network, images[:, :2])


def test_copies_have_results_of_their_own(rng, images):
    model = a_network(rng).eval()
    size = len(pickle.dumps(model))
    expected = output(model, images)
    assert len(pickle.dumps(model)) == size
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(output(other, images), expected)
        other[1].weight.data *= 2
        other.eval()
        assert (output(other, images) != expected).any()
        np.testing.assert_array_equal(output(model, images), expected)


def test_several_threads_evaluate_while_another_model_trains(rng, images):
    model, other = a_network(rng).eval(), Sequential(Linear(2, 2, rng=rng, dtype=np.float64))
    expected, found, stop = output(model, images), [], threading.Event()

    def train():
        optimizer = SGD(other.parameters(), 0.1)
        while not stop.is_set():
            other.backward(other(np.ones((3, 2))))
            optimizer.step()

    trainer = threading.Thread(target=train)
    workers = [
        threading.Thread(target=lambda: found.extend(output(model, images) for _ in range(30))) for _ in range(3)
    ]
    for thread in (trainer, *workers):
        thread.start()
    for thread in workers:
        thread.join()
    stop.set()
    trainer.join()
    assert len(found) == 90
    assert all((result == expected).all() for result in found)


@pytest.mark.parametrize("name", ["lenet5", "resnet20", "vgg"])
def test_networks_of_the_package_are_the_same_in_float32(name, device):
    rng = np.random.default_rng(0)
    model = models.build_model(name, (3, 32, 32), 10).to(device)
    x = rng.standard_normal((3, 3, 32, 32)).astype(np.float32)
    model(model.device.asarray(x))
    assert isinstance(model, Module)
    model.eval()
    found = output(model, x)
    model.train()
    for _, module in model.named_modules():
        module.training = type(module) is Sequential  # the modules themselves are computed, in evaluation
    assert not any(isinstance(step, FoldedConv2d) for _, step in model._steps())
    expected = output(model, x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
