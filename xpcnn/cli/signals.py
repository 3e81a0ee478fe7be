"""Ctrl-C, SIGTERM and SIGHUP stop training and save the run: the first after the current step, the second at once."""

from __future__ import annotations

import signal
import threading
from typing import Any

from ..training import Run

# Windows has no SIGHUP.
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class SignalsStop:
    """A context manager that handles the signals in its block.

    The first signal makes the run stop after the current step, with a checkpoint. The second raises KeyboardInterrupt,
    except while a checkpoint is being written, after which training ends anyway. Without a run, the first raises.

    Attributes:
        run: the run to stop; the caller sets it.
        received: the first signal, or None.
    """

    run: Run | None = None
    received: signal.Signals | None = None

    def __enter__(self) -> SignalsStop:
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():  # the only one that may set handlers
            for number in _SIGNALS:
                # A process started by `nohup` ignores SIGHUP on purpose.
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
        """The exit code that shells use for the signal."""
        return 128 + (self.received or signal.SIGINT)
