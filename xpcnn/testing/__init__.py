"""Helpers for pytest, for the layers of this package and for your own.

- `assert_close` compares an array with its expected value, including its device, dtype and shape.
- `check_gradients` compares a backward pass with numeric differences of its forward pass.
- `pytest_plugins = ["xpcnn.testing.fixtures"]` gives a test suite the fixtures `device` and `xp`.

To compare two devices, see `xpcnn.parity`.
"""

from .assertions import assert_close
from .gradients import GradientError, check_gradients

__all__ = ["GradientError", "assert_close", "check_gradients"]
