"""Printing that never ends the work it reports on: a closed pipe or a full disk behind stdout costs the text only."""

from __future__ import annotations

from typing import Any


class TolerantStream:
    """A text stream that drops what cannot be written.

    Args:
        stream: what to write to; None, as `sys.stdout` is where it was closed before the start, drops everything.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, if that is possible, and return the length of the text."""
        try:
            if self._stream is not None:
                self._stream.write(text)
        except UnicodeEncodeError:  # to a terminal that knows few characters
            return self.write(text.encode("ascii", "backslashreplace").decode("ascii"))
        except (OSError, ValueError):  # BrokenPipeError is an OSError; a closed stream raises ValueError
            pass
        return len(text)

    def flush(self) -> bool:
        """Flush, and return whether everything reached the system."""
        try:
            if self._stream is not None:
                self._stream.flush()
        except (OSError, ValueError):
            return False
        return True

    def isatty(self) -> bool:
        """Return whether a person may be watching."""
        try:
            return self._stream is not None and bool(self._stream.isatty())
        except (OSError, ValueError):
            return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def say(text: str, stream: Any) -> None:
    """Print a line at once, or drop it if the stream does not take it.

    Args:
        text: the line, or several.
        stream: a text stream, or None.
    """
    tolerant = TolerantStream(stream)
    tolerant.write(text + "\n")
    tolerant.flush()
