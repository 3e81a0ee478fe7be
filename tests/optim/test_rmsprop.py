"""RMSprop and clipped gradients, against their formulas and PyTorch."""

import numpy as np
import pytest
import reference_layers
from helpers import assert_close
from inputs import refused
from pytorch import single_threaded_torch

from xpcnn.nn import Parameter
from xpcnn.optim import RMSprop, clip_grad_norm

RMSPROPS = [
    {},
    {"lr": 0.05, "alpha": 0.5, "eps": 0.1},
    {"momentum": 0.9},
    {"lr": 0.02, "momentum": 0.5, "weight_decay": 0.3},
]
SHAPE, STEPS = (4, 3, 2), 6


def steps(optimizer, options, device, rng, dtype=np.float64):
    """Yield a parameter after each step, with its first value and the gradients so far, on the host."""
    start, gradients = rng.normal(size=SHAPE).astype(dtype), rng.normal(size=(STEPS, *SHAPE)).astype(dtype)
    gradients[:, 0, 0] = 0
    parameter = Parameter(device.asarray(start.copy()))
    made = optimizer([("weight", parameter)], **options)
    for t in range(STEPS):
        parameter.grad = device.asarray(gradients[t])
        made.step()
        assert_close(parameter.grad, gradients[t], 0, 0, device=device)  # step() only reads it
        yield parameter.data, start, gradients[: t + 1]


@pytest.mark.parametrize("options", RMSPROPS, ids=repr)
def test_rmsprop_equals_its_formula(options, device, rng):
    for data, start, gradients in steps(RMSprop, options, device, rng):
        assert_close(data, reference_layers.rmsprop(start, gradients, **options), 1e-10, 1e-14, device=device)


@pytest.mark.parametrize("options", RMSPROPS, ids=repr)
def test_rmsprop_equals_pytorchs(options, device, rng):
    torch = single_threaded_torch()
    tensor = None
    for data, start, gradients in steps(RMSprop, options, device, rng, np.float32):
        if tensor is None:
            tensor = torch.tensor(start)
            theirs = torch.optim.RMSprop([tensor], **options)
        tensor.grad = torch.tensor(gradients[-1])
        theirs.step()
        assert_close(data, tensor.numpy(), 1e-5, 1e-6, device=device)


@pytest.mark.parametrize("options", [RMSPROPS[0], RMSPROPS[3]], ids=repr)
def test_saved_state_continues_with_the_same_bits(options, device, rng):
    gradients = rng.normal(size=(STEPS, *SHAPE))
    start = rng.normal(size=SHAPE)

    def run(parameter, optimizer, given):
        for gradient in given:
            parameter.grad = device.asarray(gradient)
            optimizer.step()

    def fresh(values):
        parameter = Parameter(device.asarray(values.copy()))
        return parameter, RMSprop([("weight", parameter)], **options)

    through, optimizer = fresh(start)
    run(through, optimizer, gradients)
    first, optimizer = fresh(start)
    run(first, optimizer, gradients[:3])
    second, resumed = fresh(device.to_host(first.data))
    resumed.load_state_dict(optimizer.state_dict())
    run(second, resumed, gradients[3:])
    assert_close(second.data, device.to_host(through.data), 0, 0, device=device)
    names = ["momentum.weight"] if "momentum" in options else []
    assert sorted(optimizer.state_dict()) == [*names, "square.weight", "steps"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"alpha": 1.0}, ["alpha", "below 1", "1.0"]),
        ({"eps": -1}, ["eps", "at least 0", "-1"]),
        ({"momentum": 1.0}, ["momentum", "below 1", "1.0"]),
        ({"weight_decay": -1}, ["weight_decay", "at least 0", "-1"]),
        ({"lr": -1}, ["lr", "at least 0", "-1"]),
    ],
)
def test_bad_options_are_named(options, words):
    with refused(*words):
        RMSprop([("weight", Parameter(np.zeros(3)))], **options)


# -- Clipping ----------------------------------------------------------------------------------------------------------


def parameters_with(device, gradients):
    parameters = [Parameter(device.asarray(np.zeros_like(gradient))) for gradient in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = device.asarray(gradient)
    return parameters


@pytest.mark.parametrize("max_norm", [0.0, 0.1, 2.0, 1e3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_clipping_equals_pytorchs(max_norm, dtype, device, rng):
    torch = single_threaded_torch()
    for draw_rng in rng.spawn(5):
        gradients = [draw_rng.normal(size=shape).astype(dtype) for shape in ((4, 3, 2, 2), (5,), (1, 7))]
        tensors = [torch.zeros(gradient.shape, dtype=torch.tensor(gradient).dtype) for gradient in gradients]
        for tensor, gradient in zip(tensors, gradients, strict=True):
            tensor.grad = torch.tensor(gradient)
        expected = torch.nn.utils.clip_grad_norm_(tensors, max_norm)
        parameters = parameters_with(device, gradients)
        parameters.insert(1, Parameter(device.asarray(np.ones(3, dtype))))  # one that nothing was learnt about
        norm = clip_grad_norm(iter(parameters), max_norm)
        rtol = 1e-5 if dtype == np.float32 else 1e-12
        assert_close(norm, expected.numpy(), rtol, 0, device=device)
        assert parameters.pop(1).grad is None
        for parameter, tensor in zip(parameters, tensors, strict=True):
            assert_close(parameter.grad, tensor.grad.numpy(), rtol, 0, device=device)


def test_a_norm_by_hand(device):
    parameters = parameters_with(device, [np.array([3.0, 0.0]), np.array([[-4.0]])])
    assert_close(clip_grad_norm(parameters, 10), 5.0, 0, 0, device=device)
    assert_close(parameters[1].grad, np.array([[-4.0]]), 0, 0, device=device)
    assert_close(clip_grad_norm(parameters, 1), 5.0, 0, 0, device=device)
    assert_close(parameters[0].grad, np.array([0.6, 0]), 1e-6, 0, device=device)
    assert_close(parameters[1].grad, np.array([[-0.8]]), 1e-6, 0, device=device)


def test_clipping_reads_nothing_on_the_host(device):
    if device.name != "strict":
        pytest.skip("only the make-believe device counts host reads")
    import strict_xp

    parameters = parameters_with(device, [np.ones((2, 3)), np.ones(4)])
    with strict_xp.forbid_host_reads():
        clip_grad_norm(parameters, 0.5)


def test_clipping_needs_gradients():
    with refused("no gradients", "backward()"):
        clip_grad_norm([Parameter(np.zeros(3))], 1)
    with refused("max_norm", "-1"):
        clip_grad_norm([], -1)
