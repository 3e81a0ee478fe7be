"""Muon against a slow loop and PyTorch, and several optimizers in one."""

import numpy as np
import pytest
import strict_xp
from helpers import assert_close
from inputs import refused
from pytorch import single_threaded_torch

from xpcnn.nn import Parameter
from xpcnn.optim import SGD, AdamW, Combined, LinearSchedule, Muon
from xpcnn.optim.muon import orthogonalized

SHAPES = {"wide": (3, 2, 3, 3), "tall": (7, 4), "square": (4, 4), "one": (1, 5)}
OPTIONS = [
    {},
    {"lr": 0.24, "momentum": 0.6, "normalize": True, "ns_steps": 3},
    {"nesterov": False, "weight_decay": 0.1},
    {"momentum": 0.0, "eps": 0.5},
]
STEPS = 5


def newton_schulz(matrix, steps, eps):
    """The iteration on the singular values alone, which leaves the singular vectors as they are."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    values = values / (np.sqrt((values**2).sum()) + eps)
    for _ in range(steps):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return left @ np.diag(values) @ right


def by_hand(
    w, gradients, lr=0.02, momentum=0.95, nesterov=True, weight_decay=0.0, normalize=False, ns_steps=5, eps=1e-7
):
    velocity = np.zeros(w.shape)
    for gradient in gradients:
        velocity = momentum * velocity + gradient
        direction = momentum * velocity + gradient if nesterov else velocity
        if normalize:
            w = w * np.sqrt(len(w) / (w**2).sum())
        w = w * (1 - lr * weight_decay)
        w = w - lr * newton_schulz(direction.reshape(len(w), -1), ns_steps, eps).reshape(w.shape)
    return w


def make(device, dtype=np.float64):
    rng = np.random.default_rng(1)
    return {name: Parameter(device.asarray(rng.normal(size=shape), dtype)) for name, shape in SHAPES.items()}


def gradients(dtype=np.float64):
    rng = np.random.default_rng(2)
    return [{name: rng.normal(size=shape).astype(dtype) for name, shape in SHAPES.items()} for _ in range(STEPS)]


def run(device, parameters, optimizer, given, missing=None):
    for step, values in enumerate(given):
        for name, parameter in parameters.items():
            parameter.grad = None if missing == (name, step) else device.asarray(values[name])
        optimizer.step()


@pytest.mark.parametrize("options", OPTIONS, ids=repr)
def test_muon_equals_its_formula(options, device):
    parameters, given = make(device), gradients()
    start = {name: device.to_host(parameter.data).copy() for name, parameter in parameters.items()}
    run(device, parameters, Muon(parameters.items(), **options), given, missing=("tall", 2))
    for name, parameter in parameters.items():
        own = [values[name] for step, values in enumerate(given) if (name, step) != ("tall", 2)]
        assert_close(parameter.data, by_hand(start[name], own, **options), 1e-9, 1e-11, device=device)


@pytest.mark.parametrize(
    "options", [{"weight_decay": 0.1}, {"momentum": 0.5, "nesterov": False, "ns_steps": 3}], ids=repr
)
def test_muon_equals_pytorchs_which_iterates_in_bfloat16(options, device):
    torch = single_threaded_torch()
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this PyTorch has no Muon")
    shapes = {"wide": (5, 16), "square": (8, 8)}  # where PyTorch adjusts no learning rate
    rng = np.random.default_rng(0)
    parameters = {name: Parameter(device.asarray(rng.normal(size=shape), np.float32)) for name, shape in shapes.items()}
    tensors = {name: torch.tensor(device.to_host(p.data).copy()) for name, p in parameters.items()}
    ours = Muon(parameters.items(), 0.05, **options)
    theirs = torch.optim.Muon(tensors.values(), 0.05, **{"weight_decay": 0.0} | options)
    for _ in range(STEPS):
        for name, parameter in parameters.items():
            gradient = rng.normal(size=shapes[name]).astype(np.float32)
            parameter.grad, tensors[name].grad = device.asarray(gradient), torch.tensor(gradient)
        ours.step()
        theirs.step()
    for name, parameter in parameters.items():
        assert_close(parameter.data, tensors[name].numpy(), 0, 0.01, device=device)  # each step moves it by 0.05


def test_updates_are_nearly_orthogonal(rng):
    for shape in ((6, 30), (30, 6)):
        values = np.linalg.svd(orthogonalized(rng.normal(size=shape), 5), compute_uv=False)
        assert 0.5 < values.min() <= values.max() < 1.3


def test_muon_reads_nothing_on_the_host(device):
    if device.name != "strict":
        pytest.skip("only the make-believe device counts host reads")
    parameters = make(device)
    optimizer = Muon(parameters.items(), normalize=True, weight_decay=0.1)
    for parameter in parameters.values():
        parameter.grad = device.asarray(np.ones(parameter.data.shape))
    with strict_xp.forbid_host_reads():
        optimizer.step()


def both(parameters):
    named = list(parameters.items())
    groups = [{"params": named[2:3], "lr": LinearSchedule(0.5, 9)}, {"params": named[3:]}]
    return Muon(named[:2], LinearSchedule(0.1, 9)), SGD(groups, 0.3, momentum=0.9)


def test_several_optimizers_in_one_compute_the_same(device):
    """Also gradients that are changed all at once, as by a sum over processes."""
    separate, together, given = make(device), make(device), gradients()
    optimizers, combined = both(separate), Combined(*both(together))
    assert list(combined.parameters) == list(SHAPES)
    for values in given:
        for name in SHAPES:
            separate[name].grad, together[name].grad = (device.asarray(factor * values[name]) for factor in (2, 1))
        for flat in combined.gather():
            flat *= 2
        for optimizer in (*optimizers, combined):
            optimizer.step()
    for name, parameter in together.items():
        assert_close(parameter.data, device.to_host(separate[name].data), 0, 0, device=device)
    assert combined.steps == STEPS
    assert combined.lr == LinearSchedule(0.1, 9)(STEPS)
    combined.zero_grad()
    assert all(parameter.grad is None for parameter in together.values())
    combined.lr = 0.25
    assert [group["lr"] for group in combined.param_groups] == [0.25] * 3


def test_saved_state_continues_with_the_same_bits(device):
    given, through, first = gradients(), make(device), make(device)
    run(device, through, Combined(*both(through)), given, missing=("wide", 1))
    stopped = Combined(*both(first))
    run(device, first, stopped, given[:2], missing=("wide", 1))
    second = {name: Parameter(parameter.data.copy()) for name, parameter in first.items()}
    resumed = Combined(*both(second))
    resumed.load_state_dict(stopped.state_dict())
    assert resumed.steps == 2
    run(device, second, resumed, given[2:])
    for name, parameter in second.items():
        assert_close(parameter.data, device.to_host(through[name].data), 0, 0, device=device)
    expected = {"steps", "step.wide", *(f"momentum.{name}" for name in SHAPES)}
    assert set(stopped.state_dict()) == expected
    with refused("unknown entry 'square.tall'"):
        resumed.load_state_dict({"square.tall": np.ones(1)})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda w, b: Muon([("w", w), ("b", b)]), ["two axes", "'b'", "(4,)"]),
        (lambda w, b: Muon([w], momentum=1.0), ["momentum", "below 1", "1.0"]),
        (lambda w, b: Muon([w], ns_steps=0), ["ns_steps", "at least 1", "0"]),
        (lambda w, b: Muon([w], eps=0), ["eps", "above 0", "0"]),
        (lambda w, b: Combined(), ["at least one"]),
        (lambda w, b: Combined(Muon([("w", w)]), AdamW([("w", b)])), ["'w'"]),
        (lambda w, b: Combined(Muon([("w", w)]), AdamW([("again", w)])), ["'again'"]),
    ],
)
def test_what_does_not_fit_is_refused(make, words):
    with refused(*words):
        make(Parameter(np.ones((3, 4))), Parameter(np.ones(4)))
