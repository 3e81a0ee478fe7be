"""The tolerances hold for every order of summation, and catch what is little worse than rounding."""

import numpy as np
import pytest
from other_order import reversed_matmul, reversed_sum

from xpcnn.parity import tolerance, tolerance_table
from xpcnn.parity.tolerances import operand_tolerance, precision_of

PRECISIONS = {"float64": np.longdouble, "float32": np.float64}
LENGTHS = [9, 25, 288, 2304, 20_000]


def operands(rng, length, kind, dtype):
    """Return two matrices whose products have terms of random signs, of one sign, or that cancel in the end."""
    a, b = rng.normal(size=(16, length)), rng.normal(size=(length, 24))
    if kind == "positive":
        a, b = abs(a), abs(b)
    elif kind == "cancelling":
        half = length // 2
        a[:, half : 2 * half], b[half : 2 * half] = -a[:, :half], b[:half]
    return a.astype(dtype), b.astype(dtype)


def scale(a, b, y):
    return max(abs(y).max(), float(np.sqrt(a.shape[1] * (a.astype("d") ** 2).mean() * (b.astype("d") ** 2).mean())))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", ["random", "positive", "cancelling"])
@pytest.mark.parametrize("length", LENGTHS)
def test_products_in_any_order_stay_within_the_tolerance(precision, kind, length, rng):
    a, b = operands(rng, length, kind, precision)
    truth = np.zeros((16, 24), PRECISIONS[precision])
    for k in range(0, length, 64):  # a product of long doubles is a slow one
        truth += a[:, k : k + 64].astype(truth.dtype) @ b[k : k + 64].astype(truth.dtype)
    allowed = tolerance("product", length, precision) * scale(a, b, truth)
    forward, backward = a @ b, reversed_matmul(a, b)
    for one, other in ((forward, truth), (backward, truth), (forward, backward)):
        assert abs(one - other).max() <= allowed
    # Nor is it absurdly loose.
    assert abs(backward - truth).max() > allowed / 500


@pytest.mark.parametrize("kind", ["random", "positive"])
@pytest.mark.parametrize("length", LENGTHS[:-1])  # beyond, one of so many positive terms is no more than rounding
def test_a_dropped_term_is_caught(kind, length, rng):
    a, b = operands(rng, length, kind, "float32")
    y = a @ b
    wrong = y.copy()
    term = a[3] * b[:, 5]
    wrong[3, 5] -= term[np.argsort(abs(term))[length // 2]]  # one of usual size
    assert abs(wrong - y).max() > tolerance("product", length) * scale(a, b, y)


def test_sums_in_any_order_stay_within_the_tolerance(rng):
    for length in LENGTHS:
        x = rng.normal(size=(32, length)).astype("f")
        truth = x.sum(axis=1, dtype="d")
        allowed = tolerance("reduction", length) * max(abs(truth).max(), np.sqrt(length))
        assert abs(x.sum(axis=1) - reversed_sum(x, 1)).max() <= allowed
        assert abs(reversed_sum(x, 1) - truth).max() <= allowed


def test_factors_cut_to_tf32_stay_within_its_tolerance_and_outside_float32_s(rng):
    def cut(x):
        return (x.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)  # 10 bits of the fraction are left

    for length in LENGTHS:
        a, b = operands(rng, length, "random", "float32")
        error = abs(cut(a) @ cut(b) - a @ b).max() / scale(a, b, a @ b)
        assert tolerance("product", length) < error < tolerance("product", length, "tf32")


def tensor_core(a, b):
    """Return `a @ b` as Fasi et al. (2021) found a V100 to sum it: 4 products at a time, all cut at one place."""
    total = np.zeros((len(a), b.shape[1]))
    for k in range(0, a.shape[1], 4):
        terms = np.stack([total, *(np.outer(a[:, i], b[i]) for i in range(k, min(k + 4, a.shape[1])))])
        total = cut(cut(terms, abs(terms).max(axis=0)).sum(axis=0))
    return total


def cut(x, largest=None):
    """Cut `x` towards 0, to the last of float32's places in `largest`, or in itself."""
    unit = np.ldexp(1.0, np.frexp(x if largest is None else largest)[1] - 24)
    return np.trunc(x / unit) * unit


@pytest.mark.parametrize("kind", ["random", "positive", "cancelling"])
def test_a_tensor_core_s_sums_stay_within_mixed_precision_s_tolerance(kind, rng):
    for length in LENGTHS:
        a, b = (x.astype("d") for x in operands(rng, length, kind, "float16"))
        error = abs(tensor_core(a, b) - a @ b).max() / scale(a, b, a @ b)
        assert error < tolerance("product", length, "mixed")
        if kind == "positive" and length > 1000:
            assert error > tolerance("product", length)  # which is why float32's would not do


def test_factors_that_two_devices_round_differently_stay_within_their_tolerance(rng):
    def half(x):
        return x.astype("e").astype("f")

    for length in LENGTHS:
        a, b = operands(rng, length, "random", "float32")
        near = [x * (1 + rng.uniform(-1, 1, x.shape).astype("f") * np.float32(2e-6)) for x in (a, b)]
        error = abs(half(a) @ half(b) - half(near[0]) @ half(near[1])).max() / scale(a, b, a @ b)
        assert error < tolerance("product", length, "mixed") + operand_tolerance("mixed")
        rounding = abs(half(a) @ half(b) - a @ b).max() / scale(a, b, a @ b)
        assert operand_tolerance("mixed") / 100 < rounding < operand_tolerance("mixed")
    assert operand_tolerance("float32") == 0


def test_float16_products_summed_in_float32_stay_within_the_tolerance(rng):
    for length in (25, 288):
        a, b = operands(rng, length, "random", "float16")
        truth = a.astype("d") @ b.astype("d")
        rounded = (a.astype("f") @ b.astype("f")).astype("e")
        allowed = tolerance("product", length, "float16") * scale(a, b, truth)
        assert allowed / 20 < abs(rounded - truth).max() <= allowed


def test_elementwise_functions_stay_within_the_tolerance(rng):
    x = rng.normal(size=10_000).astype("f")
    for function in (np.exp, np.tanh, lambda x: 1 / (1 + np.exp(-x)), lambda x: x * np.tanh(np.log1p(np.exp(x)))):
        truth = function(x.astype("d"))
        assert abs(function(x) - truth).max() <= tolerance("elementwise") * abs(truth).max()


def test_the_table_and_what_is_asked_of_it():
    table = tolerance_table()
    assert table.startswith("| relative to the scale | float64 | float32 | tf32 | mixed | float16 |\n")
    assert "| product, K = 576 | 1.2e-14 | 6.5e-06 | 4.8e-03 | 3.0e-05 | 9.8e-04 |" in table
    assert tolerance("exact") == 0
    for arguments in (("products",), ("product", 0), ("product", 3, "int8")):
        with pytest.raises(ValueError, match="no tolerance for"):
            tolerance(*arguments)
    assert precision_of(np.float32, tf32=True) == "tf32"
    assert precision_of(np.float32, mixed=True) == "mixed"
    assert precision_of(np.float64, tf32=True) == precision_of(np.float64, mixed=True) == "float64"
    with pytest.raises(ValueError, match="got int64"):
        precision_of(np.int64)
