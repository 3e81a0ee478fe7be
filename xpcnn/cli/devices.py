"""`xpcnn devices`: what can compute here."""

from __future__ import annotations

import argparse
from typing import Any

from ..backend import available_devices
from .options import add_command


def add_commands(commands: Any) -> None:
    """Add `devices` to the sub-parsers of a command line."""
    add_command(commands, "devices", _devices, "list the devices that answer, and why others do not")


def _devices(args: argparse.Namespace) -> int:
    devices, reason = available_devices()
    for device in devices:
        print(f"{device.name}: {device.description}")
    if reason:
        print(f"no {'further ' if len(devices) > 1 else ''}GPU: {reason}")
    return 0
