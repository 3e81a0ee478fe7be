"""Learning rate schedules: functions of the number of steps already taken, without state to save.

A schedule is used in place of a number: `SGD(model.parameters(), lr=CosineSchedule(0.1, 1000))`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi

from .optimizer import require


@dataclass(frozen=True)
class _WarmUp:
    """A line up to `lr`, then what a subclass says."""

    lr: float
    total_steps: int
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        require(self.lr >= 0, "lr", "at least 0", self.lr)
        require(self.total_steps > 0, "total_steps", "at least 1", self.total_steps)
        require(0 <= self.warmup_steps < self.total_steps, "warmup_steps", "below total_steps", self.warmup_steps)

    def __call__(self, step: int) -> float:
        if step < self.warmup_steps:
            return self.lr * (step + 1) / (self.warmup_steps + 1)
        return self._after_warmup(step)

    def _after_warmup(self, step: int) -> float:
        raise NotImplementedError


@dataclass(frozen=True)
class CosineSchedule(_WarmUp):
    """Linear warm-up to `lr` over `warmup_steps`, then half a cosine down to 0 (Loshchilov and Hutter 2017).

    Args:
        lr: the highest learning rate.
        total_steps: number of steps, warm-up included, after which the learning rate is 0.
        warmup_steps: number of steps of the warm-up, below `total_steps`.

    Raises:
        ValueError: if a number is out of range.
    """

    def _after_warmup(self, step: int) -> float:
        progress = min(1.0, (step - self.warmup_steps) / (self.total_steps - self.warmup_steps))
        return self.lr * (1 + cos(pi * progress)) / 2


@dataclass(frozen=True)
class LinearSchedule(_WarmUp):
    """Linear warm-up to `lr` over `warmup_steps`, then a line down to 0: a triangle (Smith 2018).

    Args:
        lr: the highest learning rate.
        total_steps: number of steps, warm-up included, after which the learning rate is 0.
        warmup_steps: number of steps of the warm-up, below `total_steps`.

    Raises:
        ValueError: if a number is out of range.
    """

    def _after_warmup(self, step: int) -> float:
        return self.lr * max(0.0, (self.total_steps - step) / (self.total_steps - self.warmup_steps))


@dataclass(frozen=True)
class StepSchedule:
    """The learning rate is multiplied by `gamma` after every `step_size` steps.

    Args:
        lr: the initial learning rate.
        step_size: number of steps between the changes.
        gamma: the factor, above 0 and at most 1.

    Raises:
        ValueError: if a number is out of range.
    """

    lr: float
    step_size: int
    gamma: float = 0.1

    def __post_init__(self) -> None:
        require(self.lr >= 0, "lr", "at least 0", self.lr)
        require(self.step_size > 0, "step_size", "at least 1", self.step_size)
        require(0 < self.gamma <= 1, "gamma", "above 0 and at most 1", self.gamma)

    def __call__(self, step: int) -> float:
        return self.lr * self.gamma ** (step // self.step_size)
