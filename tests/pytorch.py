"""PyTorch, where it is installed, as the other opinion on what a layer computes."""

from typing import Any

import pytest


def single_threaded_torch() -> Any:
    """Return PyTorch, or skip the test; on one thread, as several would spin between calls and hold up ours."""
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    return torch
