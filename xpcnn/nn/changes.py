"""Notices that weights or modes have changed, so that what was computed from them is computed again.

What is kept belongs to all networks of the process: it is forgotten with any change, and evaluation makes it again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

Value = TypeVar("Value")

_kept: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
_count = 0


def note() -> None:
    """Forget everything that was kept: a weight, a buffer or a module's mode has changed."""
    global _count
    _count += 1
    if _kept:
        _kept.clear()


def kept(owner: Any, make: Callable[[], Value]) -> Value:
    """Return what `make` returned for this owner since the last change, or call it."""
    value = _kept.get(owner)
    if value is None:
        count, value = _count, make()
        if count == _count:  # else another thread has changed something meanwhile
            _kept[owner] = value
    found: Value = value
    return found
