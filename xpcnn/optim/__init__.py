"""Optimizers and learning rate schedules."""

from .adam import Adam, AdamW
from .optimizer import Optimizer
from .schedule import CosineSchedule, Schedule, StepSchedule
from .sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "CosineSchedule", "Optimizer", "Schedule", "StepSchedule"]
