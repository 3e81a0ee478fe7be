"""Each initialiser's variance, and the shape of its distribution."""

import numpy as np
import pytest
from inputs import refused

from xpcnn.nn import Linear, init

# Fan-in and fan-out of the shapes below, worked out by hand.
FANS = {(64, 32, 3, 3): (288, 576), (200, 300): (300, 200), (128, 1, 5, 7): (35, 4480)}
VARIANCES = {
    "he": lambda fan_in, fan_out: 2 / fan_in,
    "glorot": lambda fan_in, fan_out: 2 / (fan_in + fan_out),
    "lecun": lambda fan_in, fan_out: 1 / fan_in,
}


@pytest.mark.parametrize("shape", FANS, ids=str)
@pytest.mark.parametrize("name", VARIANCES)
def test_variance_and_distribution(name, shape, rng):
    variance = VARIANCES[name](*FANS[shape])
    n = np.prod(shape)
    for distribution, kurtosis, beyond_two in (("normal", 3, 0.0455), ("uniform", 1.8, 0.0)):
        weight = getattr(init, f"{name}_{distribution}")(shape, rng)
        assert weight.shape == shape
        assert abs(weight.mean()) < 5 * np.sqrt(variance / n)
        assert abs(weight.var() / variance - 1) < 5 * np.sqrt((kurtosis - 1) / n)
        found = np.mean(np.abs(weight) > 2 * np.sqrt(variance))
        assert abs(found - beyond_two) <= 5 * np.sqrt(beyond_two / n)
        if distribution == "uniform":
            bound = np.sqrt(3 * variance)
            assert 0.99 * bound < np.abs(weight).max() <= bound


def test_the_scale_of_gradients_by_the_fan_out(rng):
    for shape, (_, fan_out) in FANS.items():
        weight = init.he_normal_fan_out(shape, rng)
        assert abs(weight.var() * fan_out / 2 - 1) < 5 * np.sqrt(2 / weight.size)


def test_a_given_standard_deviation(rng):
    layer = Linear(300, 200, weight_init=init.normal(0.01), rng=rng)
    assert layer.weight.data.std() == pytest.approx(0.01, rel=0.02)


def test_a_weight_has_two_axes(rng):
    with refused("two axes", "(5,)"):
        init.he_normal((5,), rng)
