"""Ctrl-C, SIGTERM and SIGHUP end training in good order: the first after the step under way, the second at once."""

from __future__ import annotations

import signal
import threading
from typing import Any

from ..training import Run

# Windows has no SIGHUP.
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class SignalsStop:
    """Receives the signals inside its block.

    The first asks the run to stop, which saves it. A second raises KeyboardInterrupt, but not while a checkpoint is
    being written: after that training ends anyway. Before there is a run, the first raises.

    Attributes:
        run: to be set once there is one.
        received: the signal that came first, or None.
    """

    run: Run | None = None
    received: signal.Signals | None = None

    def __enter__(self) -> SignalsStop:
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():  # Python lets no other one do it
            for number in _SIGNALS:
                # What `nohup` starts ignores SIGHUP, and is meant to.
                if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: object) -> None:
        first, self.received = self.received is None, self.received or signal.Signals(number)
        if self.run is not None and (first or self.run.saving):
            self.run.trainer.stop()
        else:
            raise KeyboardInterrupt

    @property
    def exit_code(self) -> int:
        """What a shell makes of the signal."""
        return 128 + (self.received or signal.SIGINT)
