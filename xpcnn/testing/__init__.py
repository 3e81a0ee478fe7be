"""Helpers for pytest: for the layers of this package and for a user's own.

- `assert_close` compares an array with what it should be, its device, dtype and shape included.
- `check_gradients` compares a backward pass with numeric differences of its forward pass.
- `pytest_plugins = ["xpcnn.testing.fixtures"]` gives a test suite the fixtures `device` and `xp`.

Whether two devices compute the same is the business of `xpcnn.parity`.
"""

from .assertions import assert_close
from .gradients import GradientError, check_gradients

__all__ = ["GradientError", "assert_close", "check_gradients"]
