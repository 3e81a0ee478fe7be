"""Optimizers and learning rate schedules."""

from .adam import Adam, AdamW
from .clip import clip_grad_norm
from .optimizer import Optimizer
from .rmsprop import RMSprop
from .schedule import CosineSchedule, Schedule, StepSchedule
from .sgd import SGD

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "CosineSchedule",
    "Optimizer",
    "RMSprop",
    "Schedule",
    "StepSchedule",
    "clip_grad_norm",
]
