"""Comparing an array with its expected value: device, shape and dtype first, then values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import backend
from ..backend import Array, Device, device_or_none, to_host


@dataclass(frozen=True)
class Difference:
    """The element at which two arrays differ most, measured against a tolerance.

    Attributes:
        index: where it is.
        actual, expected: the two values.
        absolute: how far they are apart; infinite if one of them is not finite.
        ulp: the same in units of the last place of the expected value.
        count: how many elements lie outside the tolerance.
    """

    index: tuple[int, ...]
    actual: float
    expected: float
    absolute: float
    ulp: float
    count: int

    def __str__(self) -> str:
        return f"worst at {self.index}: got {self.actual}, expected {self.expected}, {self.ulp:.3g} ulp apart"


def worst_difference(actual: Array, expected: Array, rtol: float = 0.0, atol: float = 0.0) -> Difference | None:
    """Return the element that exceeds a tolerance by most, or None if none does.

    Args:
        actual, expected: arrays of one shape, on any device.
        rtol, atol: an element may be off by `atol + rtol·|expected|`. Equal infinities and two NaNs agree.

    Returns:
        the difference; its unit of the last place is that of the narrower of the two dtypes.
    """
    got, want = to_host(actual), to_host(expected)
    unit = _narrower(got.dtype, want.dtype)
    got, want = got.astype(np.float64), want.astype(np.float64)
    with np.errstate(invalid="ignore"):  # inf - inf, decided by `agree`
        distance = np.abs(got - want)
        excess = distance - (atol + rtol * np.abs(want))
    agree = (got == want) | (np.isnan(got) & np.isnan(want))
    excess = np.where(agree, -np.inf, np.where(np.isnan(excess), np.inf, excess))
    count = int((excess > 0).sum())
    if not count:
        return None
    index = tuple(int(i) for i in np.unravel_index(excess.argmax(), excess.shape))
    absolute = float(distance[index]) if np.isfinite(distance[index]) else float("inf")
    return Difference(
        index, float(got[index]), float(want[index]), absolute, ulps(got[index], want[index], unit), count
    )


def ulps(actual: float, expected: float, dtype: Any) -> float:
    """Return the distance of two numbers in units of the last place (ulp) of `expected` in a dtype."""
    if actual == expected or (np.isnan(actual) and np.isnan(expected)):
        return 0.0
    if not np.isfinite([actual, expected]).all():
        return float("inf")
    dtype = np.dtype(dtype)
    spacing = float(np.spacing(np.abs(dtype.type(expected)))) if dtype.kind == "f" else 1.0
    return abs(float(actual) - float(expected)) / spacing


def assert_close(
    actual: Array,
    expected: Any,
    rtol: float = 1e-5,
    atol: float = 1e-6,
    *,
    device: Device | str | None = None,
    dtype: Any = None,
) -> None:
    """Assert that an array has the expected device, shape, dtype and values.

    Args:
        actual: the array under test; reading it waits for its device.
        expected: an array on any device, or anything that `np.asarray` takes; often a float64 reference.
        rtol, atol: an element may be off by `atol + rtol·|expected|`. Equal infinities and two NaNs agree.
        device: the device of `actual`; None for the device of `expected`.
        dtype: the dtype of `actual`; None for the dtype of `expected`.

    Raises:
        AssertionError: naming the first of these that differs; for values, the index of the worst one, both values and
            their distance in units of the last place.
    """
    if device_or_none(expected) is None:
        expected = np.asarray(expected)
    wanted, found = device_or_none(expected) if device is None else backend.device(device), device_or_none(actual)
    assert found is wanted, f"expected an array on {wanted}, got {type(actual).__name__} on {found}"
    assert actual.shape == expected.shape, f"expected shape {expected.shape}, got {actual.shape}"
    dtype = expected.dtype if dtype is None else np.dtype(dtype)
    assert actual.dtype == dtype, f"expected dtype {dtype}, got {actual.dtype}"
    worst = worst_difference(actual, expected, rtol, atol)
    if worst is not None:
        raise AssertionError(f"{worst.count} of {actual.size} values differ; {worst} (rtol={rtol}, atol={atol})")


def _narrower(a: np.dtype[Any], b: np.dtype[Any]) -> np.dtype[Any]:
    return min(a, b, key=lambda dtype: (dtype.kind != "f", dtype.itemsize))
