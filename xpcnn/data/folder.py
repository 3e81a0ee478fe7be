"""Where data sets are kept."""

import os
import sys
from pathlib import Path

from .errors import DataError


def data_folder(data_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder that holds the data sets' folders: `data_dir`, else `$XPCNN_DATA`, else the user's cache.

    Raises:
        DataError: if a `~` in it stands for no known user.
    """
    try:
        return _data_folder(data_dir)
    except RuntimeError as error:  # from expanduser() and home()
        raise DataError(f"no folder for data sets in {data_dir or 'the home folder'}: {error}") from error


def _data_folder(data_dir: str | os.PathLike[str] | None) -> Path:
    if chosen := data_dir or os.environ.get("XPCNN_DATA"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        cache = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        cache = Path.home() / "Library" / "Caches"
    else:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "xpcnn"
