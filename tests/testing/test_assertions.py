"""Comparisons that look at device, dtype and shape as well as values, and say what is wrong in one line."""

import re

import numpy as np
import pytest
import strict_xp

from xpcnn.testing import assert_close
from xpcnn.testing.assertions import ulps, worst_difference


def test_equal_arrays_pass_on_every_device(device):
    values = np.array([[1.0, np.inf, -np.inf, np.nan, 0.0]], np.float32)
    assert_close(device.asarray(values), values, 0, 0, device=device)
    assert_close(device.asarray(values), device.asarray(values), 0, 0)  # the device of what is expected


@pytest.mark.parametrize(
    ("actual", "message"),
    [
        (strict_xp.xp.ones((2, 3)), "expected an array on Device('cpu'), got StrictArray on Device('strict')"),
        ([[1.0] * 3] * 2, "expected an array on Device('cpu'), got list on None"),
        (np.ones((3, 2)), "expected shape (2, 3), got (3, 2)"),
        (np.ones((2, 3), np.float32), "expected dtype float64, got float32"),
    ],
    ids=["device", "no array", "shape", "dtype"],
)
def test_what_is_not_a_value_comes_first(actual, message):
    with pytest.raises(AssertionError, match=re.escape(message)):
        assert_close(actual, np.zeros((2, 3)))


def test_a_difference_names_the_worst_index_both_values_and_the_distance(device):
    expected = np.ones((3, 4), np.float32)
    actual = expected.copy()
    actual[0, 1] += 2e-5
    actual[2, 3] += np.float32(8 * 2**-23)  # eight units of the last place
    with pytest.raises(AssertionError) as caught:
        assert_close(device.asarray(actual), expected, 0, 1e-7, device=device)
    assert "2 of 12 values differ; worst at (0, 1): got 1.0000200271606445, expected 1.0, 168 ulp apart" in str(
        caught.value
    )
    actual[0, 1] = 1
    with pytest.raises(AssertionError, match=r"1 of 12 .* at \(2, 3\).* 8 ulp"):
        assert_close(device.asarray(actual), expected, 0, 1e-7, device=device)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_the_worst(bad):
    actual = np.array([1.0, bad, 3.0])
    with pytest.raises(AssertionError, match=r"worst at \(1,\).*inf ulp"):
        assert_close(actual, np.ones(3), 10, 10)


def test_the_tolerances_are_relative_and_absolute():
    assert_close(np.array([100.9, 0.1]), np.array([100.0, 0.0]), 1e-2, 0.11)
    with pytest.raises(AssertionError):
        assert_close(np.array([101.2]), np.array([100.0]), 1e-2, 0.11)


def test_units_of_the_last_place_are_those_of_the_narrower_type():
    assert ulps(1 + 2**-22, 1.0, np.float32) == 2
    assert ulps(5, 3, np.int64) == 2
    with pytest.raises(AssertionError, match=" 1 ulp"):
        assert_close(np.array([np.float32(1) + np.float32(2**-23)]), np.ones(1), 0, 0, dtype=np.float32)


def test_the_largest_difference_is_found_without_a_tolerance():
    expected = np.array([[1.0, 2.0, np.nan], [np.inf, -4.0, 6.0]])
    assert worst_difference(expected, expected.copy()) is None
    assert worst_difference(expected[:0], expected[:0]) is None
    actual = expected + np.array([[0, 0.5, 0], [0, -1, 0.75]])
    worst = worst_difference(actual, expected)
    assert (worst.index, worst.absolute, worst.count) == ((1, 1), 1.0, 3)
    for value in (np.nan, 5.0, -np.inf):
        actual[1, 0] = value
        worst = worst_difference(actual, expected)
        assert (worst.index, worst.absolute) == ((1, 0), np.inf)
