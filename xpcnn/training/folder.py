"""Folders for results: always new ones, so that nothing is overwritten."""

from pathlib import Path


def make_folder(path: Path, advice: str) -> None:
    """Make a new folder, and those above it.

    Args:
        path: where.
        advice: what to do if something is there already; the end of the message.

    Raises:
        ValueError: if something is there already, or the folder cannot be made.
    """
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        raise ValueError(f"{path} exists already; {advice}") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be made: {error.strerror}") from error
