"""Parameter groups, names, schedules, and how parameters, gradients and state lie side by side."""

import numpy as np
import pytest
from helpers import assert_close
from inputs import refused
from pytorch import single_threaded_torch

from xpcnn.backend import CPU
from xpcnn.nn import Parameter
from xpcnn.optim import OPTIMIZERS, SGD, Adam, AdamW, CosineSchedule, RMSprop, StepSchedule, build_optimizer

SHAPES = [(4, 3), (), (5,), (2, 2, 2)]
MAKE = [
    (SGD, {"lr": 0.1, "momentum": 0.9}),
    (Adam, {"lr": 0.01}),
    (AdamW, {"lr": 0.01, "weight_decay": 0.3}),
    (RMSprop, {"lr": 0.01, "momentum": 0.5}),
]
every = pytest.mark.parametrize(("kind", "options"), MAKE, ids=[kind.__name__ for kind, _ in MAKE])


def make(device, dtype=np.float64):
    rng = np.random.default_rng(1)
    return [Parameter(device.asarray(rng.normal(size=shape), dtype)) for shape in SHAPES]


def gradients(steps, dtype=np.float64):
    rng = np.random.default_rng(2)
    return [[np.asarray(rng.normal(size=shape), dtype) for shape in SHAPES] for _ in range(steps)]


def set_gradients(device, parameters, values, missing=()):
    for i, (parameter, value) in enumerate(zip(parameters, values, strict=True)):
        parameter.grad = None if i in missing else device.asarray(value)


# Which parameters have no gradient in each step: the first is unfrozen later, one is frozen for a while.
MISSING = [(0,), (0,), (), (2,), (2,), (), (1, 3), ()]


@every
def test_each_parameter_counts_its_own_steps_as_in_pytorch(kind, options, device):
    torch = single_threaded_torch()
    parameters = make(device, np.float32)
    tensors = [torch.tensor(device.to_host(parameter.data).copy()) for parameter in parameters]
    ours, theirs = kind(parameters, **options), getattr(torch.optim, kind.__name__)(tensors, **options)
    for values, missing in zip(gradients(len(MISSING), np.float32), MISSING, strict=True):
        set_gradients(device, parameters, values, missing)
        for i, tensor in enumerate(tensors):
            tensor.grad = None if i in missing else torch.tensor(values[i])
        ours.step()
        theirs.step()
        for parameter, tensor in zip(parameters, tensors, strict=True):
            assert parameter.data.shape == tuple(tensor.shape)
            assert_close(parameter.data, tensor.numpy(), 1e-5, 1e-6, device=device)


def test_a_parameter_unfrozen_late_takes_adams_first_step(device):
    early, late = (Parameter(device.asarray(np.ones(3))) for _ in range(2))
    optimizer = Adam([early, late], lr=1e-3)
    for _ in range(1000):
        early.grad = device.asarray(np.full(3, 0.5))
        optimizer.step()
    late.grad = device.asarray(np.full(3, 0.5))
    optimizer.step()
    assert_close(late.data, np.full(3, 1 - 1e-3), 0, 1e-9, device=device)


@every
def test_state_comes_back_by_itself(kind, options, device):
    """`load_state_dict(state_dict())`, with parameters that have taken different numbers of steps."""
    given = gradients(len(MISSING))
    through, first = make(device), make(device)
    optimizer = kind(through, **options)
    for values, missing in zip(given, MISSING, strict=True):
        set_gradients(device, through, values, missing)
        optimizer.step()
    stopped = kind(first, **options)
    for values, missing in zip(given[:5], MISSING, strict=False):
        set_gradients(device, first, values, missing)
        stopped.step()
    state = stopped.state_dict()
    assert {key for key in state if key.startswith("step.")} == {"step.0", "step.2"}
    second = [Parameter(parameter.data.copy()) for parameter in first]
    resumed = kind(second, **options)
    resumed.load_state_dict(state)
    for values, missing in zip(given[5:], MISSING[5:], strict=True):
        set_gradients(device, second, values, missing)
        resumed.step()
    for ours, theirs in zip(second, through, strict=True):
        assert_close(ours.data, device.to_host(theirs.data), 0, 0, device=device)


@every
def test_groups_have_options_of_their_own_as_in_pytorch(kind, options, device):
    torch = single_threaded_torch()
    parameters = make(device, np.float32)
    tensors = [torch.tensor(device.to_host(parameter.data).copy()) for parameter in parameters]

    def groups(items):
        return [{"params": items[:1], "lr": 0.05}, {"params": items[1:3], "weight_decay": 0.2}, {"params": items[3:]}]

    ours = kind(groups(parameters), **options)
    theirs = getattr(torch.optim, kind.__name__)(groups(tensors), **options)
    assert [group["lr"] for group in ours.param_groups] == [0.05, options["lr"], options["lr"]]
    for step, values in enumerate(gradients(4, np.float32)):
        set_gradients(device, parameters, values)
        for tensor, value in zip(tensors, values, strict=True):
            tensor.grad = torch.tensor(value)
        if step == 2:
            ours.param_groups[1]["lr"] = theirs.param_groups[1]["lr"] = 0.001
        ours.step()
        theirs.step()
        for parameter, tensor in zip(parameters, tensors, strict=True):
            assert_close(parameter.data, tensor.numpy(), 1e-5, 1e-6, device=device)


def test_the_learning_rate_is_a_number_or_a_schedule(device):
    schedule = StepSchedule(1.0, 2, 0.5)
    (parameter,), (other,) = make(device)[:1], make(device)[:1]
    scheduled, by_hand = SGD([parameter], schedule), SGD([other], 1.0)
    for step, values in enumerate(gradients(5)):
        parameter.grad, other.grad = (device.asarray(values[0]) for _ in range(2))
        assert scheduled.lr == scheduled.learning_rate(step) == schedule(step)
        by_hand.lr = schedule(step)
        scheduled.step()
        by_hand.step()
        assert_close(parameter.data, device.to_host(other.data), 0, 0, device=device)
    scheduled.lr = 0.25
    assert scheduled.lr == scheduled.learning_rate(100) == 0.25


def test_groups_may_have_schedules_of_their_own():
    groups = [{"params": [Parameter(np.ones(2))], "lr": CosineSchedule(1.0, 10)}, {"params": [Parameter(np.ones(2))]}]
    optimizer = SGD(groups, 0.5)
    for _ in range(5):
        for parameter in optimizer.parameters.values():
            parameter.grad = np.ones(2)
        optimizer.step()
    first, second = optimizer.parameters.values()
    assert first.data == pytest.approx(1 - sum(CosineSchedule(1.0, 10)(step) for step in range(5)))
    assert second.data == pytest.approx(1 - 5 * 0.5)


def test_names():
    parameters = make(CPU)
    assert list(SGD(parameters, 0.1).parameters) == ["0", "1", "2", "3"]
    named = list(zip("abcd", parameters, strict=True))
    assert list(SGD(named, 0.1).parameters) == ["a", "b", "c", "d"]
    assert list(SGD([{"params": named[:2]}, {"params": parameters[2:]}], 0.1).parameters) == ["a", "b", "2", "3"]
    assert SGD([*named, ("again", parameters[0])], 0.1).parameters.keys() == set("abcd")  # tied, so it is taken once
    with refused("two parameters are named 'a'"):
        SGD([named[0], ("a", parameters[1])], 0.1)
    with refused("expected parameters, or pairs of name and parameter, got str", error=TypeError):
        SGD(["weight"], 0.1)


def test_bad_options_of_a_group_are_named():
    parameters = make(CPU)
    with refused("momentum", "below 1", "1.5"):
        SGD([{"params": parameters[:2]}, {"params": parameters[2:], "momentum": 1.5}], 0.1)


# -- Side by side ------------------------------------------------------------------------------------------------------


def test_gradients_can_be_changed_all_at_once(device):
    """As a sum over processes would: in the arrays that `gather` returns."""
    given = gradients(3)
    parameters, others = make(device), make(device)
    changed, plain = (SGD(items, 0.1, momentum=0.9) for items in (parameters, others))
    for values in given:
        set_gradients(device, parameters, values, missing=(2,))
        set_gradients(device, others, [3 * value for value in values], missing=(2,))
        (flat,) = changed.gather()
        assert flat.shape == (sum(int(np.prod(shape)) for shape in SHAPES),)
        flat *= 3
        assert_close(parameters[0].grad, 3 * values[0], 1e-12, device=device)
        changed.step()
        plain.step()
    for ours, theirs in zip(parameters, others, strict=True):
        assert_close(ours.data, device.to_host(theirs.data), 1e-12, device=device)


def test_dtypes_lie_apart_and_arrays_assigned_anew_are_taken_up(device):
    single, double = (Parameter(device.asarray(np.ones(4, dtype))) for dtype in ("f4", "f8"))
    optimizer = SGD([single, double], 1.0, momentum=0.5)
    for data in (None, np.full(4, 7.0)):
        if data is not None:
            double.data = device.asarray(data)
        for parameter in (single, double):
            parameter.grad = device.asarray(np.ones(4), parameter.data.dtype)
        optimizer.step()
    assert [array.dtype for array in optimizer.gather()] == [np.float32, np.float64]
    assert_close(single.data, np.full(4, 1 - 1 - 1.5, "f4"), 1e-6, device=device)
    assert_close(double.data, np.full(4, 7 - 1.5), 1e-12, device=device)  # its momentum went on


def test_momentum_may_be_switched_on_between_steps(device):
    parameters = make(device)
    optimizer = SGD(parameters, 0.1)
    for momentum in (0.0, 0.9, 0.0):
        optimizer.param_groups[0]["momentum"] = momentum
        set_gradients(device, parameters, gradients(1)[0])
        optimizer.step()
    assert optimizer.steps == 3


def test_gradients_without_zero_grad_add_up_across_steps(device):
    (parameter,) = make(device)[:1]
    optimizer = SGD([parameter], 0.0)
    for total in (1, 2, 3):
        parameter.add_gradient(device.asarray(np.ones(SHAPES[0])))
        optimizer.step()
        assert_close(parameter.grad, np.full(SHAPES[0], float(total)), 0, 0, device=device)


# -- By name -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_of_the_table_learns(name):
    parameter = Parameter(np.full(3, 2.0))
    optimizer = build_optimizer(name, [parameter], weight_decay=0.0)
    assert type(optimizer) is OPTIMIZERS[name].kind
    assert optimizer.lr == OPTIMIZERS[name].lr
    for _ in range(100):
        parameter.grad = parameter.data.copy()
        optimizer.step()
    assert np.abs(parameter.data).max() < 1.95
    assert build_optimizer(name, [parameter], 0.5).lr == 0.5


def test_unknown_names_are_refused():
    with refused("unknown optimizer 'lion'", "rmsprop"):
        build_optimizer("lion", [Parameter(np.ones(2))])
