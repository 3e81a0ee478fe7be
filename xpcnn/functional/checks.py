"""What every function checks before it computes: that it is given arrays of floats, and gradients that fit.

Only shapes and dtypes are looked at, so that nothing waits for a GPU. In a step of a small network each microsecond is
seen: the usual case is tested first, and what is wrong is found out afterwards.
"""

from __future__ import annotations

from typing import Any

from ..backend import Array, Device, Shape, batch_last, device_or_none

_CONVERT = "convert with .astype(np.float32)"
_FLOATS = "fdg"  # NumPy's characters for float32, float64 and long double


def check_input(function: str, x: Array, expected: str = "(N, ...)", *, float16: bool = True) -> Device:
    """Return the device of an input, an array of floats with at least one axis.

    Args:
        function: the name of the caller, for the error message.
        x: the argument to check.
        expected: its shape, for the error message.
        float16: False for a function that sums more numbers than float16 can, or whose steps leave its range.

    Raises:
        TypeError: if it is not an array, or one without axes.
        ValueError: if its elements are not floats, or are float16 where that is not allowed.
    """
    device = device_or_none(x)
    if device is None or not x.ndim:
        got = type(x).__name__ if device is None else "an array without axes"
        raise TypeError(f"{function}: expected an array {expected}, got {got}")
    if x.dtype.char not in _FLOATS:
        if x.dtype.kind != "f":
            raise ValueError(f"{function}: expected floats, got {x.dtype}: {_CONVERT}")
        if not float16:
            refuse_float16(function, x.dtype)
    return device


def check_images(x: Array) -> None:
    """Raise ValueError unless an input is `(N, C, H, W)` and its images have pixels."""
    if x.ndim != 4 or 0 in x.shape[1:]:
        raise ValueError(f"expected input (N, C, H, W) with C, H and W of at least 1, got {x.shape}")


def refuse_float16(function: str, dtype: Any) -> None:
    """Raise ValueError if the dtype is float16, whose results would be wrong here.

    Args:
        function: the name of the caller, for the error message.
        dtype: of its arrays.
    """
    if dtype.char == "e":
        raise ValueError(f"{function}: the result would be wrong in float16: {_CONVERT}")


def check_dtypes(x: Array, weight: Array) -> None:
    """Raise ValueError unless an input has the weight's dtype, or float16 with a float32 weight: mixed precision."""
    if x.dtype != weight.dtype and (x.dtype.char, weight.dtype.char) != ("e", "f"):
        raise ValueError(f"expected input of the weight's dtype {weight.dtype}, got {x.dtype}")


def check_arrays(function: str, **arguments: Array) -> None:
    """Raise TypeError unless each argument is an array.

    Args:
        function: the name of the caller, for the error message.
        arguments: by name.
    """
    for name, array in arguments.items():
        if device_or_none(array) is None:
            raise TypeError(f"{function}: expected an array as {name}, got {type(array).__name__}")


def check_gradient(function: str, dy: Array, shape: Shape, dtype: Any) -> Array:
    """Return the gradient w.r.t. an output in the batch-last layout.

    Args:
        function: the name of the caller, for the error message.
        dy: the gradient, `(N, ...)`.
        shape: of the output in the batch-last layout, `(..., N)`.
        dtype: of the output.

    Raises:
        TypeError: if it is not an array.
        ValueError: if its shape or dtype is not that of the output.
    """
    try:
        gradient = batch_last(dy)
        if gradient.shape == shape and gradient.dtype == dtype:
            return gradient
    except (AttributeError, ValueError):  # not an array, or one without axes
        if device_or_none(dy) is None:
            got = type(dy).__name__
            raise TypeError(f"{function}: expected the gradient w.r.t. the output as an array, got {got}") from None
    raise ValueError(
        f"{function}: expected a gradient of the output's shape and dtype, {shape[-1:] + shape[:-1]} {dtype}, "
        f"got {dy.shape} {dy.dtype}"
    )
