"""What `trace.json` must contain, so that whatever reads it later finds what it expects."""

from __future__ import annotations

from typing import Any

from ..data.errors import one_line

_LARGEST = 1 << 53  # beyond it not every integer is a float


def text(value: Any) -> bool:
    """A string that a terminal shows as it is: parts of a trace are printed."""
    return isinstance(value, str) and one_line(value) == value


def number(value: Any) -> bool:
    """A number that fits a float."""
    return isinstance(value, float) or (type(value) is int and abs(value) < _LARGEST)


def count(value: Any) -> bool:
    """A number of things."""
    return type(value) is int and 0 <= value < _LARGEST


def text_or_null(value: Any) -> bool:
    """A text, if there is one."""
    return value is None or text(value)


_CALL = {"name": text, "kind": text, "arithmetic": text, "x": text, "y": text, "gradients": {"": text}}
_LOSS_CALL = dict.fromkeys(("kind", "output", "target", "value", "gradient"), text)
_DRIFT = dict.fromkeys(("forward", "backward", "correct"), number)
_STEP = {
    "loss": number,
    "correct": count,
    "sizes": {"": number},
    "drift": {"": _DRIFT},
    "data": text,
    "file": text_or_null,
}
_STORED = {"calls": [_CALL], "loss_call": _LOSS_CALL, "after": {"": text}}
_INFO = {
    "config": {},
    "recorded": {"device": text, "description": text, "versions": {"": text}},
    "layers": [[text]],
    "steps": [_STEP],
    "sha256": {"": text},
}


def misfit(info: Any) -> str:
    """Return what is wrong first in the contents of `trace.json`, with its place; "" if nothing is."""
    fault = _misfit(info, _INFO, "")
    if fault:
        return fault
    for i, step in enumerate(info["steps"]):
        # Other names could lead out of the folder.
        expected = f"step-{i + 1:04}.safetensors"
        if step["file"] not in (None, expected):
            return f"steps[{i}].file: expected {expected} or null, got {step['file']!r:.60}"
        if step["file"] and (fault := _misfit(step, _STORED, f"steps[{i}]")):
            return fault
    return ""


def _misfit(value: Any, pattern: Any, where: str) -> str:
    """Compare a value with a pattern.

    Args:
        value: what JSON gave.
        pattern: a predicate; a list of one pattern, for lists; a dictionary of patterns by the keys that must be there,
            where the key "" stands for any.
        where: the value's place, for the message.
    """
    if callable(pattern):
        return "" if pattern(value) else f"{where}: expected a {pattern.__name__}, got {value!r:.60}"
    if isinstance(pattern, list):
        if not isinstance(value, list):
            return f"{where}: expected a list, got {value!r:.60}"
        inside = ((item, pattern[0], f"{where}[{i}]") for i, item in enumerate(value))
    else:
        if not isinstance(value, dict):
            return f"{where}: expected an object, got {value!r:.60}"
        if absent := pattern.keys() - {""} - value.keys():
            return f"{where}: {', '.join(sorted(absent))} is absent".removeprefix(": ")
        inside = ((value[key], pattern.get(key, pattern.get("")), f"{where}.{key!s:.60}") for key in value)
        inside = ((item, part, place.removeprefix(".")) for item, part, place in inside if part is not None)
    return next((fault for item, part, place in inside if (fault := _misfit(item, part, place))), "")
