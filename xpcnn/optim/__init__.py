"""Optimizers and learning rate schedules."""

from .adam import Adam, AdamW
from .clip import clip_grad_norm
from .optimizer import Optimizer, Schedule
from .rmsprop import RMSprop
from .schedule import CosineSchedule, StepSchedule
from .sgd import SGD
from .table import OPTIMIZERS, Preset, build_optimizer

__all__ = [
    "OPTIMIZERS",
    "SGD",
    "Adam",
    "AdamW",
    "CosineSchedule",
    "Optimizer",
    "Preset",
    "RMSprop",
    "Schedule",
    "StepSchedule",
    "build_optimizer",
    "clip_grad_norm",
]
