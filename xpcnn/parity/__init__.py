"""Proof that devices agree, on one machine or on two that need not be side by side.

- `compare_devices` runs one training step on several devices and compares them layer by layer.
- `record` and `check` do so across machines, by way of a trace in a folder; `run` does both on one machine.
- `tolerance` says what difference is normal, for every kind of operation and precision.
"""

from .check import check, run
from .comparison import Comparison
from .config import TraceConfig
from .files import TraceError
from .layers import compare_devices
from .record import Trace, record
from .report import Report
from .tolerances import tolerance, tolerance_table

__all__ = [
    "Comparison",
    "Report",
    "Trace",
    "TraceConfig",
    "TraceError",
    "check",
    "compare_devices",
    "record",
    "run",
    "tolerance",
    "tolerance_table",
]
