"""Fetching one file from a server that may send too much, too slowly, or nothing."""

from __future__ import annotations

import threading
from pathlib import Path

from .errors import DataError

TIMEOUT = 30.0  # seconds without an answer or a byte
GRACE, SLOWEST = 60.0, 16 << 10  # a download may take GRACE seconds, and 1 second for each SLOWEST bytes
_CHUNK = 1 << 16


def fetch(address: str, path: Path, limit: int) -> None:
    """Fetch a file.

    Args:
        address: its URL.
        path: where it goes; there may be part of it after an error.
        limit: the most bytes that it may have. It bounds the time too: see `GRACE`.

    Raises:
        DataError: if it is larger, takes too long, or does not come.
        OSError: as `urlopen` raises it, or if the file cannot be written.
    """
    seconds = GRACE + limit / SLOWEST
    stop = threading.Event()
    faults: list[BaseException] = []

    def run() -> None:
        try:
            _fetch(address, path, limit, stop)
        except BaseException as error:
            faults.append(error)

    # In a thread: urllib's timeout bounds each read, but not all of them together, nor the search for the server's
    # address. A thread that took too long is left alone; it ends with its next byte, or with the process.
    worker = threading.Thread(target=run, name="xpcnn-download", daemon=True)
    worker.start()
    try:
        worker.join(seconds)
    finally:
        stop.set()
    if worker.is_alive():
        raise DataError(f"took longer than {seconds:.0f} seconds")
    if faults:
        raise faults.pop()  # out of the list: with it the traceback would be a circle, and keep the connection open


def _fetch(address: str, path: Path, limit: int, stop: threading.Event) -> None:
    # Imported here: most runs find their data on the disk.
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.request import urlopen

    from tqdm import tqdm

    try:
        with urlopen(address, timeout=TIMEOUT) as answer, path.open("wb") as file:
            size = getattr(answer, "length", None)  # unknown to other protocols than HTTP
            if size is not None and size > limit:
                raise DataError(f"the file has {size} bytes, expected at most {limit}")
            # read1 returns what came; read would wait for a whole chunk of any slow trickle.
            read = getattr(answer, "read1", answer.read)
            with tqdm.wrapattr(file, "write", total=size, desc=path.name) as counted:
                received = 0
                while not stop.is_set() and (chunk := read(_CHUNK)):
                    received += len(chunk)
                    if received > limit:
                        raise DataError(f"the file has more than the {limit} bytes expected at most")
                    counted.write(chunk)
        if size and received < size:
            raise DataError(f"the connection broke after {received} of {size} bytes")
    except HTTPError as error:
        with error:  # it holds the connection
            raise DataError(" ".join(str(error).split())) from error  # a redirection loop is told in several lines
    except (HTTPException, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"the connection broke ({error!r})") from error
