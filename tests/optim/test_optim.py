"""Optimizers against their formulas and PyTorch, their saved state, and schedules."""

import numpy as np
import pytest
import reference
from helpers import assert_close
from inputs import refused
from pytorch import single_threaded_torch

from xpcnn.backend import CPU
from xpcnn.nn import Parameter
from xpcnn.optim import SGD, Adam, AdamW, CosineSchedule, LinearSchedule, StepSchedule

SGDS = [
    {},
    {"weight_decay": 0.1},
    {"momentum": 0.9},
    {"momentum": 0.9, "weight_decay": 0.1},
    {"momentum": 0.8, "nesterov": True, "weight_decay": 0.1},
]
ADAMS = [{}, {"lr": 0.05, "betas": (0.5, 0.75), "eps": 0.1}, {"lr": 0.01, "weight_decay": 0.3}]
EVERY = [
    *((SGD, {"lr": 0.1} | options) for options in SGDS),
    *((Adam, options) for options in ADAMS),
    *((AdamW, options) for options in ADAMS),
]


def parametrized(cases):
    return pytest.mark.parametrize(("optimizer", "options"), cases, ids=lambda v: getattr(v, "__name__", repr(v)))


every = parametrized(EVERY)
STEPS = 6
SHAPES = {"weight": (4, 3, 2, 2), "bias": (5,)}


def make(optimizer, options, device, dtype=np.float64):
    """Return parameters on a device, always with the same values, and their optimizer."""
    rng = np.random.default_rng(1)
    values = {name: rng.normal(size=shape).astype(dtype) for name, shape in SHAPES.items()}
    parameters = {name: Parameter(device.asarray(value.copy())) for name, value in values.items()}
    return parameters, optimizer(parameters.items(), **options)


def gradients(steps=STEPS, dtype=np.float64):
    """Return for each parameter a gradient for each step, some of them zero from the beginning."""
    rng = np.random.default_rng(2)
    drawn = {name: rng.normal(size=(steps, *shape)).astype(dtype) for name, shape in SHAPES.items()}
    drawn["bias"][:, 0] = 0
    return drawn


def run(parameters, optimizer, device, given, steps):
    for step in steps:
        for name, parameter in parameters.items():
            parameter.grad = device.asarray(given[name][step])
        optimizer.step()


@every
def test_equals_its_formula(optimizer, options, device):
    parameters, made = make(optimizer, options, device)
    start = {name: device.to_host(parameter.data).copy() for name, parameter in parameters.items()}
    given = gradients()
    run(parameters, made, device, given, range(STEPS))
    formula = reference.sgd if optimizer is SGD else reference.adam
    if optimizer is AdamW:
        options = {"weight_decay": 0.01, "decoupled": True} | options
    for name, parameter in parameters.items():
        assert_close(parameter.data, formula(start[name], given[name], **options), 1e-10, 1e-14, device=device)
        assert_close(parameter.grad, given[name][-1], 0, 0, device=device)  # step() only reads it


@every
def test_equals_pytorch(optimizer, options, device):
    torch = single_threaded_torch()
    parameters, made = make(optimizer, options, device, np.float32)
    tensors = [torch.tensor(device.to_host(parameter.data).copy()) for parameter in parameters.values()]
    theirs = getattr(torch.optim, optimizer.__name__)(tensors, **options)
    given = gradients(dtype=np.float32)
    for step in range(STEPS):
        run(parameters, made, device, given, [step])
        for name, tensor in zip(parameters, tensors, strict=True):
            tensor.grad = torch.tensor(given[name][step])
        theirs.step()
        for parameter, tensor in zip(parameters.values(), tensors, strict=True):
            assert_close(parameter.data, tensor.numpy(), 1e-5, 1e-6, device=device)


def test_a_parameter_larger_than_one_threads_share():
    """Both are updated in parts that run at the same time."""
    rng = np.random.default_rng(3)
    start, given = rng.normal(size=(400, 500)), rng.normal(size=(3, 400, 500))
    for optimizer, formula, options in (
        (SGD, reference.sgd, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
        (Adam, reference.adam, {"weight_decay": 0.1}),
    ):
        parameter = Parameter(start.copy())
        made = optimizer([("weight", parameter)], **options)
        for gradient in given:
            parameter.grad = gradient.T.copy().T  # in another order of memory
            made.step()
        np.testing.assert_allclose(parameter.data, formula(start, given, **options), 1e-10)


@every
def test_saved_state_continues_with_the_same_bits(optimizer, options, device):
    given = gradients()
    through, made = make(optimizer, options, device)
    run(through, made, device, given, range(STEPS))

    first, made = make(optimizer, options, device)
    run(first, made, device, given, range(3))
    saved = {key: device.to_host(array).copy() for key, array in made.state_dict().items()}
    second, resumed = make(optimizer, options, device)
    for name, parameter in second.items():
        parameter.data[...] = first[name].data
    resumed.load_state_dict(saved)
    assert resumed.steps == 3
    run(second, resumed, device, given, range(3, STEPS))
    for name in SHAPES:
        assert_close(second[name].data, device.to_host(through[name].data), 0, 0, device=device)
    for key, array in saved.items():  # what was loaded is a copy
        assert_close(made.state_dict()[key], array, 0, 0, device=device)


def test_saved_state_must_fit(device):
    parameters, made = make(Adam, {}, device)
    run(parameters, made, device, gradients(), range(1))
    before = {key: device.to_host(array).copy() for key, array in made.state_dict().items()}
    assert sorted(before) == ["mean.bias", "mean.weight", "square.bias", "square.weight", "steps"]
    for changed, words in (
        ({"mean.other": np.zeros(5)}, ["Adam", "mean.other"]),
        ({"velocity.bias": np.zeros(5)}, ["Adam", "velocity.bias"]),
        ({"square.bias": np.zeros(4)}, ["Adam", "square.bias", "(5,)", "(4,)"]),
    ):
        with refused(*words):
            made.load_state_dict({"mean.bias": np.ones(5), "steps": np.array(9)} | changed)
        assert made.steps == 1
        for key, array in made.state_dict().items():
            assert_close(array, before[key], 0, 0, device=device)


@pytest.mark.parametrize("optimizer", [SGD, Adam, AdamW])
def test_a_parameter_without_gradient_stays(optimizer, device):
    parameters, made = make(optimizer, {"lr": 0.1, "weight_decay": 0.5}, device)
    bias = device.to_host(parameters["bias"].data).copy()
    run(parameters, made, device, gradients(), range(1))
    after_one = device.to_host(parameters["bias"].data).copy()
    assert not np.array_equal(bias, after_one)
    made.zero_grad()
    assert all(parameter.grad is None for parameter in parameters.values())
    made.step()
    assert_close(parameters["bias"].data, after_one, 0, 0, device=device)


def test_state_follows_a_model_that_moves(device):
    """A model trained on the CPU for a while goes on elsewhere with its momentum."""
    given, options = gradients(), {"lr": 0.1, "momentum": 0.9}
    through, made = make(SGD, options, CPU)
    run(through, made, CPU, given, range(STEPS))
    moved, made = make(SGD, options, CPU)
    run(moved, made, CPU, given, range(3))
    for parameter in moved.values():
        parameter.data = device.asarray(parameter.data)
    run(moved, made, device, given, range(3, STEPS))
    for name in SHAPES:
        assert_close(moved[name].data, through[name].data, 1e-12, 1e-15, device=device)


@pytest.mark.parametrize(
    ("optimizer", "options", "words"),
    [
        (SGD, {"lr": -0.1}, ["lr", "at least 0", "-0.1"]),
        (SGD, {"lr": float("nan")}, ["lr", "at least 0", "nan"]),
        (SGD, {"momentum": 1.0}, ["momentum", "below 1", "1.0"]),
        (SGD, {"momentum": -0.5}, ["momentum", "at least 0", "-0.5"]),
        (SGD, {"nesterov": True}, ["momentum", "nesterov"]),
        (SGD, {"weight_decay": -1}, ["weight_decay", "at least 0", "-1"]),
        (Adam, {"betas": (0.9, 1.0)}, ["betas", "below 1", "(0.9, 1.0)"]),
        (Adam, {"eps": -1e-8}, ["eps", "at least 0", "-1e-08"]),
        (AdamW, {"weight_decay": -1}, ["weight_decay", "at least 0", "-1"]),
    ],
)
def test_bad_options_are_named(optimizer, options, words):
    with refused(*words):
        optimizer([("weight", Parameter(np.zeros(3)))], **{"lr": 0.1} | options)


def test_there_must_be_parameters():
    with refused("at least one parameter"):
        SGD([], 0.1)


def test_a_cosine_with_a_linear_rise():
    schedule = CosineSchedule(2.0, 13, warmup_steps=3)
    values = [schedule(step) for step in (0, 1, 2, 3, 8, 13, 100)]
    assert values == pytest.approx([0.5, 1.0, 1.5, 2.0, 1.0, 0.0, 0.0], abs=1e-15)
    assert schedule(5) == pytest.approx(1 + np.cos(np.pi / 5))
    assert CosineSchedule(2.0, 10)(0) == 2.0


def test_linear_schedule():
    schedule = LinearSchedule(2.0, 10, warmup_steps=2)
    values = [schedule(step) for step in (0, 1, 2, 6, 9, 10, 100)]
    assert values == pytest.approx([2 / 3, 4 / 3, 2, 1, 0.25, 0, 0])
    assert LinearSchedule(2.0, 10)(0) == 2.0


def test_steps_by_a_factor():
    schedule = StepSchedule(1.0, 10, 0.5)
    assert [schedule(step) for step in (0, 9, 10, 19, 20, 35)] == [1, 1, 0.5, 0.5, 0.25, 0.125]


@pytest.mark.parametrize(
    ("make_schedule", "words"),
    [
        (lambda: CosineSchedule(-0.1, 5), ["lr", "at least 0", "-0.1"]),
        (lambda: LinearSchedule(-0.1, 5), ["lr", "at least 0", "-0.1"]),
        (lambda: LinearSchedule(1, 5, 5), ["warmup_steps", "total_steps", "5"]),
        (lambda: StepSchedule(float("nan"), 5), ["lr", "at least 0", "nan"]),
        (lambda: CosineSchedule(1, 0), ["total_steps", "at least 1", "0"]),
        (lambda: CosineSchedule(1, 5, 5), ["warmup_steps", "total_steps", "5"]),
        (lambda: CosineSchedule(1, 5, -1), ["warmup_steps", "-1"]),
        (lambda: StepSchedule(1, 0), ["step_size", "at least 1", "0"]),
        (lambda: StepSchedule(1, 5, 0), ["gamma", "above 0", "0"]),
    ],
)
def test_bad_schedules_are_named(make_schedule, words):
    with refused(*words):
        make_schedule()


@every
def test_a_large_parameter_in_any_order_of_memory(optimizer, options, device, rng):
    """Large enough to be shared among threads; as a transposed view it has no flat one."""
    values, gradient = rng.normal(size=(2, 1100, 1000)).astype(np.float32)
    plain, turned = Parameter(device.asarray(values.copy())), Parameter(device.asarray(values.T.copy()).T)
    for parameter in (plain, turned):
        step = optimizer([("weight", parameter)], **options)
        for _ in range(2):
            parameter.grad = device.asarray(gradient)
            step.step()
    assert_close(turned.data, device.to_host(plain.data), 0, 0, device=device)
    assert np.abs(device.to_host(turned.data) - values).max() > 1e-4
