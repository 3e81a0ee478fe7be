"""Dynamic loss scaling: steps that overflow leave no trace but half the scale, and nothing is read from the device."""

import numpy as np
import pytest
from strict_xp import forbid_host_reads

from xpcnn.nn import Parameter
from xpcnn.optim import SGD, Adam, GradScaler


def make(device, optimizer=Adam, **options):
    rng = np.random.default_rng(1)
    named = {name: Parameter(device.asarray(rng.normal(size=shape), np.float32)) for name, shape in PARAMETERS.items()}
    return named, optimizer([{"params": [pair], "lr": 0.1} for pair in named.items()], **options)


PARAMETERS = {"weight": (3, 4), "bias": (4,)}


def give_gradients(named, device, factor, spoiled=None):
    for name, parameter in named.items():
        values = np.random.default_rng(2).normal(size=parameter.data.shape).astype(np.float32) * factor
        if name == spoiled:
            values.flat[-1] = np.inf
        parameter.grad = device.asarray(values)


def bits(named, optimizer, device):
    state = {name: value for name, value in optimizer.state_dict().items() if name != "steps"}
    return {name: np.array(device.to_host(a)) for name, a in ({n: p.data for n, p in named.items()} | state).items()}


@pytest.mark.parametrize("optimizer", [lambda p: SGD(p, 0.1, momentum=0.9), Adam], ids=["SGD", "Adam"])
@pytest.mark.parametrize("spoiled", PARAMETERS)
def test_an_overflow_skips_the_step_and_halves_the_scale(optimizer, spoiled, device):
    named, step = make(device, optimizer)
    scaler = GradScaler()
    give_gradients(named, device, 2.0**16)
    scaler.unscale(step)
    scaler.step(step)
    before = bits(named, step, device)
    give_gradients(named, device, 2.0**16, spoiled)
    with forbid_host_reads():
        scaler.unscale(step)
        scaler.step(step)
    after = bits(named, step, device)
    assert after.keys() == before.keys()
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array, err_msg=name)
    assert scaler.state_dict() == {"scale": 2.0**15, "good_steps": 0}


@pytest.mark.parametrize("optimizer", [lambda p: SGD(p, 0.1, momentum=0.9), Adam], ids=["SGD", "Adam"])
def test_a_good_step_has_the_bits_of_one_without_scaling(optimizer, device):
    (named, step), (usual, usual_step) = make(device, optimizer), make(device, optimizer)
    scaler = GradScaler(2.0**10)
    for _ in range(3):
        give_gradients(usual, device, 1)
        usual_step.step()
        give_gradients(named, device, 2.0**10)
        scaler.unscale(step)
        scaler.rescale(step)
        scaler.unscale(step)
        scaler.step(step)
    expected = bits(usual, usual_step, device)
    for name, array in bits(named, step, device).items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


def test_a_gradient_that_overflowed_and_is_no_longer_computed_skips_no_further_step(device):
    named, step = make(device)
    scaler = GradScaler(8.0)
    give_gradients(named, device, 1, "bias")
    scaler.step(step)
    before = bits(named, step, device)
    give_gradients(named, device, 1)
    named["bias"].grad = None
    scaler.step(step)
    after = bits(named, step, device)
    assert scaler.state_dict() == {"scale": 4.0, "good_steps": 1}
    assert (after["weight"] != before["weight"]).all()
    np.testing.assert_array_equal(after["bias"], before["bias"])


def test_the_scale_grows_after_good_steps_only(device):
    named, step = make(device)
    scaler = GradScaler(8.0, growth_interval=2)
    scales = []
    for spoiled in (None, None, None, "weight", None, None, None, "bias", "bias"):
        give_gradients(named, device, 1, spoiled)
        scaler.step(step)
        scales.append(scaler.state_dict()["scale"])
    assert scales == [8, 16, 16, 8, 8, 16, 16, 8, 4]


def test_the_scale_stays_a_number(device):
    named, step = make(device)
    for first, spoiled in ((2.0**-24, "bias"), (2.0**64, None)):
        scaler = GradScaler(first, growth_interval=1)
        give_gradients(named, device, 1, spoiled)
        scaler.step(step)
        assert scaler.state_dict()["scale"] == first


def test_the_state_can_be_saved(device):
    named, step = make(device)
    scaler, other = GradScaler(growth_interval=3), GradScaler(growth_interval=3)
    give_gradients(named, device, 1)
    scaler.step(step)
    other.load_state_dict(scaler.state_dict())
    for one in (scaler, other):
        for _ in range(2):
            give_gradients(named, device, 1)
            one.step(step)
        assert one.state_dict() == {"scale": 2.0**17, "good_steps": 0}


@pytest.mark.parametrize(
    "state",
    [{}, None, {"scale": 0.0, "good_steps": 0}, {"scale": np.nan, "good_steps": 0}, {"scale": 1.0, "good_steps": -1}],
)
def test_a_damaged_state_is_refused(state):
    with pytest.raises(ValueError, match=r"loss scale|must be from"):
        GradScaler().load_state_dict(state)


@pytest.mark.parametrize("options", [{"init_scale": 0.0}, {"growth_interval": 0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match="must be"):
        GradScaler(**options)
