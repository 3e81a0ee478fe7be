"""Operations of a device that are run again and again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

Result = TypeVar("Result")


class Recording(Generic[Result]):
    """A function that is called at each `run`; a GPU records what it does and replays that: see `Device.recorded`."""

    def __init__(self, function: Callable[[], Result]) -> None:
        self._function = function

    def run(self) -> Result:
        """Run the operations, and return the function's result, whose arrays the next run may overwrite."""
        return self._function()
