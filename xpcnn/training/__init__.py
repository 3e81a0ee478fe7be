"""Training: the loop, callbacks, metrics, checkpoints, runs and their configuration, and prediction."""

from .callbacks import Callback, Checkpointer, History, ProgressBar, Record, Table, read_history, write_history
from .checkpoint import Checkpoint, CheckpointError
from .config import RunConfig, TrainingConfig
from .metrics import Metrics
from .predict import predict
from .run import Run, SaveError, load_trained
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
    "Run",
    "RunConfig",
    "SaveError",
    "Table",
    "Trainer",
    "TrainingConfig",
    "TrainingDivergedError",
    "evaluate",
    "load_trained",
    "predict",
    "read_history",
    "write_history",
]
