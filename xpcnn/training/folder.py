"""Folders for results, always new so that nothing is overwritten."""

from pathlib import Path


def make_folder(path: Path, advice: str) -> None:
    """Make a new folder, with its parents.

    Args:
        path: where.
        advice: what to do if it exists already; the end of the message.

    Raises:
        ValueError: if it exists already, or cannot be made.
    """
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        raise ValueError(f"{path} exists already; {advice}") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be made: {error.strerror}") from error
