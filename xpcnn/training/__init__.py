"""Training: the loop, what is told about it, and what is kept of it."""

from .callbacks import Callback, Checkpointer, History, ProgressBar, Record, Table, read_history
from .checkpoint import Checkpoint, CheckpointError
from .metrics import Metrics
from .trainer import Trainer, TrainingDivergedError, evaluate

__all__ = [
    "Callback",
    "Checkpoint",
    "CheckpointError",
    "Checkpointer",
    "History",
    "Metrics",
    "ProgressBar",
    "Record",
    "Table",
    "Trainer",
    "TrainingDivergedError",
    "evaluate",
    "read_history",
]
