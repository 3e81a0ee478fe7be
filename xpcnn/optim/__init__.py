"""Optimizers, learning rate schedules, and the table of optimizers that the command line offers."""

from __future__ import annotations

from typing import Any, NamedTuple

from .adam import Adam, AdamW
from .clip import clip_grad_norm
from .combined import Combined
from .grad_scaler import GradScaler
from .muon import Muon
from .optimizer import Optimizer, Parameters, Schedule
from .rmsprop import RMSprop
from .schedule import CosineSchedule, LinearSchedule, StepSchedule
from .sgd import SGD


class Preset(NamedTuple):
    """An optimizer with default options.

    Attributes:
        kind: its class.
        lr: the default highest learning rate.
        options: options that differ from the class's own defaults.
    """

    kind: type[Optimizer]
    lr: float
    options: dict[str, Any] = {}  # noqa: RUF012 (never changed)


OPTIMIZERS: dict[str, Preset] = {
    "sgd": Preset(SGD, 0.05, {"momentum": 0.9, "nesterov": True}),
    "adam": Preset(Adam, 0.003),
    "adamw": Preset(AdamW, 0.003),
    "rmsprop": Preset(RMSprop, 0.001),
}


def build_optimizer(name: str, parameters: Parameters, lr: float | Schedule | None = None, **options: Any) -> Optimizer:
    """Return an optimizer by name.

    Args:
        name: a key of `OPTIMIZERS`.
        parameters: see `Optimizer`.
        lr: learning rate, a number or a schedule; None for the default.
        options: further options, which override the defaults.

    Raises:
        ValueError: if the name is unknown, or an option is out of range.
    """
    preset = _preset(name)
    return preset.kind(parameters, lr=preset.lr if lr is None else lr, **preset.options | options)


def build_cosine_optimizer(
    name: str, parameters: Parameters, lr: float | None, steps: int, **options: Any
) -> Optimizer:
    """Return an optimizer whose learning rate rises over the first twentieth of the steps, then falls along a cosine.

    Args:
        name, parameters, options: see `build_optimizer`.
        lr: the highest learning rate; None for the default.
        steps: how many there will be.

    Raises:
        ValueError: if the name is unknown, or an option is out of range.
    """
    schedule = CosineSchedule(_preset(name).lr if lr is None else lr, steps, steps // 20)
    return build_optimizer(name, parameters, schedule, **options)


def _preset(name: str) -> Preset:
    if name not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {name!r}: expected one of {', '.join(OPTIMIZERS)}")
    return OPTIMIZERS[name]


__all__ = [
    "OPTIMIZERS",
    "SGD",
    "Adam",
    "AdamW",
    "Combined",
    "CosineSchedule",
    "GradScaler",
    "LinearSchedule",
    "Muon",
    "Optimizer",
    "Parameters",
    "Preset",
    "RMSprop",
    "Schedule",
    "StepSchedule",
    "build_cosine_optimizer",
    "build_optimizer",
    "clip_grad_norm",
]
