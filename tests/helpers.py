"""What many tests need and none should write twice."""

from typing import Any

from xpcnn import backend
from xpcnn.testing import assert_close

__all__ = ["assert_close", "to_device"]


def to_device(device: backend.Device, *arrays: Any, dtype: Any = None) -> list[Any]:
    """Return the arrays on a device; a None, such as an absent bias, stays None."""
    return [None if array is None else device.asarray(array, dtype) for array in arrays]
