"""Do two devices compute the same? Compared on one machine, or on two by way of a recorded trace.

- `compare_devices` runs one training step on several devices and compares them layer by layer.
- `record` trains for some steps and writes a trace, a folder; `check` repeats them on another machine and compares.
- `run` does both on one machine.
- `tolerance` returns the difference that rounding may cause, by kind of operation, length and precision.

`README.md` beside this file shows the commands, a report, and how to compare a layer of one's own.
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
