"""Where data sets are kept."""

import os
import sys
from pathlib import Path


def data_folder(data_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder that holds the data sets' folders: `data_dir`, else `$XPCNN_DATA`, else the user's cache."""
    if chosen := data_dir or os.environ.get("XPCNN_DATA"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        cache = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        cache = Path.home() / "Library" / "Caches"
    else:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "xpcnn"
