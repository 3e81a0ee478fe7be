"""What many tests need and none should write twice."""

from typing import Any

import numpy as np

from xpcnn import backend


def to_device(device: backend.Device, *arrays: Any, dtype: Any = None) -> list[Any]:
    """Return the arrays on a device; a None, such as an absent bias, stays None."""
    return [None if array is None else device.asarray(array, dtype) for array in arrays]


def assert_close(
    actual: Any,
    expected: Any,
    rtol: float = 1e-5,
    atol: float = 1e-6,
    *,
    device: backend.Device,
    dtype: Any = None,
) -> None:
    """Assert that `actual` lies on `device` and has the shape, dtype and values that are expected.

    Args:
        actual: the array under test; reading it is a host read.
        expected: a NumPy array, often a float64 reference.
        rtol, atol: an element may be off by `atol + rtol * abs(expected)`; equal infinities and two NaNs agree.
        device: where `actual` must lie.
        dtype: what `actual` must have, by default the dtype of `expected`.
    """
    found = backend.device_or_none(actual)
    assert found is device, f"expected an array on {device}, got {type(actual).__name__} on {found}"
    expected = np.asarray(expected)
    assert actual.shape == expected.shape, f"expected shape {expected.shape}, got {actual.shape}"
    dtype = expected.dtype if dtype is None else np.dtype(dtype)
    assert actual.dtype == dtype, f"expected dtype {dtype}, got {actual.dtype}"

    got, want = device.to_host(actual).astype(np.float64), expected.astype(np.float64)
    with np.errstate(invalid="ignore"):  # inf - inf, settled by `agree`
        excess = np.abs(got - want) - (atol + rtol * np.abs(want))
    agree = (got == want) | (np.isnan(got) & np.isnan(want))
    excess = np.where(agree, -np.inf, np.where(np.isnan(excess), np.inf, excess))
    if not (excess > 0).any():
        return
    worst = tuple(int(i) for i in np.unravel_index(excess.argmax(), excess.shape))
    raise AssertionError(
        f"{(excess > 0).sum()} of {excess.size} values differ; worst at {worst}: "
        f"got {got[worst]}, expected {want[worst]} (rtol={rtol}, atol={atol})"
    )
