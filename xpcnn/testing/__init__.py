"""Proof that layers are right and that devices agree, for this package's layers and for a user's own.

- `assert_close` compares an array with what it should be, its device, dtype and shape included.
- `check_gradients` compares a backward pass with numeric differences of its forward pass.
- `compare_devices` runs one training step on several devices and compares them layer by layer.
- `record` and `check` do so across machines, by way of a trace in a folder; `run` does both on one machine.
- `tolerance` says what difference is normal, for every kind of operation and precision.
- `pytest_plugins = ["xpcnn.testing.fixtures"]` gives a test suite the fixtures `device` and `xp`.
"""

from .assertions import assert_close
from .config import TraceConfig
from .files import TraceError
from .gradients import GradientError, check_gradients
from .parity import compare_devices
from .replay import check, run
from .report import Report
from .rows import Row
from .tolerances import tolerance, tolerance_table
from .trace import Trace, record

__all__ = [
    "GradientError",
    "Report",
    "Row",
    "Trace",
    "TraceConfig",
    "TraceError",
    "assert_close",
    "check",
    "check_gradients",
    "compare_devices",
    "record",
    "run",
    "tolerance",
    "tolerance_table",
]
