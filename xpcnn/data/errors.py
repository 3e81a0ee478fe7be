"""The error of everything that reads or fetches data, and text that stays on one line whatever was read."""

import unicodedata
from collections.abc import Sequence

# Line ends, escapes and other controls, and the halves of characters that stand for undecodable bytes of file names.
_UNPRINTABLE = {"Cc", "Cs", "Zl", "Zp"}


class DataError(ValueError):
    """A file or data set that is absent, damaged, or not what it claims to be; its text is one line for the user."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


NAMED = 5  # bad files in a message


def bad_files(first: Sequence[str], count: int, total: int, then: str) -> str:
    """Return a line about files that cannot be read.

    Args:
        first: what is wrong with the first ones, of which `NAMED` are shown.
        count: how many there are.
        total: how many files there are in all.
        then: what happens to the bad ones.
    """
    more = f"; and {count - NAMED:,} more" if count > NAMED else ""
    return f"{count:,} of {total:,} files cannot be read{then}: {'; '.join(first[:NAMED])}{more}"


def one_line(text: object) -> str:
    r"""Return a text on one line that a terminal shows as it is: line ends and controls become `\n`, `\x1b` and so on.

    File names, headers and what servers answer come from anyone.
    """
    return "".join(
        char.encode("unicode_escape").decode() if unicodedata.category(char) in _UNPRINTABLE else char
        for char in str(text)
    )
