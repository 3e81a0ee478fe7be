"""Training: the loop, callbacks, metrics, checkpoints, runs and their configuration, and prediction."""

from .callbacks import Callback, Checkpointer, History, ProgressBar, Record, Table, read_history, write_history
from .checkpoint import Checkpoint, CheckpointError
from .config import RunConfig, TrainingConfig
from .ema import EMA
from .evaluation import best_record, evaluate
from .metrics import Metrics
from .predict import predict
from .pretrained import pretrained_state
from .run import Run, SaveError
from .torch_file import load_torch, save_torch
from .trained import Trained, load_trained
from .trainer import Trainer, TrainingDivergedError

__all__ = [
    "EMA",
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
    "Trained",
    "Trainer",
    "TrainingConfig",
    "TrainingDivergedError",
    "best_record",
    "evaluate",
    "load_torch",
    "load_trained",
    "predict",
    "pretrained_state",
    "read_history",
    "save_torch",
    "write_history",
]
