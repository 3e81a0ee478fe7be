"""Output that never ends the work it reports on: a closed pipe or a full disk behind stdout loses text only."""

from __future__ import annotations

import contextlib
import os
from typing import Any


class TolerantStream:
    """A text stream to which writing never fails: text that cannot be written is dropped.

    Characters that the stream cannot encode are written as escapes such as `\\xe9`.

    Args:
        stream: where to write; None, as `sys.stdout` is if it was closed before the start, drops everything.

    Attributes:
        error: the first error that lost text, or None.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.error: Exception | None = None

    def write(self, text: str) -> int:
        """Write the text if possible, and return its length."""
        if self._stream is not None:
            try:
                self._stream.write(text)
            except UnicodeEncodeError as error:
                self.write(text.encode(error.encoding, "backslashreplace").decode(error.encoding))
            except (OSError, ValueError) as error:  # ValueError: the stream is closed
                self.error = self.error or error
        return len(text)

    def flush(self) -> None:
        """Flush the stream if possible."""
        if self._stream is not None:
            try:
                self._stream.flush()
            except (OSError, ValueError) as error:
                self.error = self.error or error

    def isatty(self) -> bool:
        """Return whether the stream is a terminal."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            return bool(self._stream.isatty())
        return False

    def discard_rest(self) -> None:
        """Send what the stream still buffers to the null device, so that flushing it at exit does not fail."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
