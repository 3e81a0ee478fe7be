"""Faults that code for GPUs can have, each in a function of `(cp, planted, patch)`.

If `planted` is true the function has the fault, else it does the same without. `patch` is pytest's monkeypatch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Fault = Callable[[Any, bool, Any], None]
FAULTS: dict[str, tuple[Fault, str]] = {}
WRONG = "AssertionError"  # a wrong value


def caught_by(pattern: str) -> Callable[[Fault], Fault]:
    """Register a function, with a regular expression for what is said of its fault."""

    def register(function: Fault) -> Fault:
        FAULTS[function.__name__.replace("_", " ")] = function, pattern
        return function

    return register


def equal(array: Any, expected: Any) -> None:
    """Assert that an array of a device or of the host has these values."""
    np.testing.assert_array_equal(array.get() if hasattr(array, "get") else array, expected)


from . import devices, graphs, kernels, memory, streams  # noqa: E402, F401  they register theirs
