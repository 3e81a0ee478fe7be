"""Reports: a page about a training run, a parity check, or several runs.

Each is one HTML file, light and dark, which runs no script and loads nothing. No optional package is needed.

    from pathlib import Path
    from xpcnn.report import run_report

    probabilities = trainer.predict(test.images)
    text = run_report("My network", trainer.records, test=test, probabilities=probabilities, model=trainer.model)
    Path("report.html").write_text(text, encoding="utf-8")
"""

from .compare import FinishedRun, comparison_report, comparison_text
from .markup import write_page
from .parity import parity_report
from .run import REPORT, run_report, write_run_report

__all__ = [
    "REPORT",
    "FinishedRun",
    "Predictions",
    "comparison_report",
    "comparison_text",
    "parity_report",
    "run_report",
    "write_page",
    "write_run_report",
]
