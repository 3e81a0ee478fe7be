"""The error of everything that reads or fetches data, and text that stays on one line whatever was read."""

import unicodedata

# Line ends, escapes and other controls, and the halves of characters that stand for undecodable bytes of file names.
_UNPRINTABLE = {"Cc", "Cs", "Zl", "Zp"}


class DataError(ValueError):
    """A file or data set that is absent, damaged, or not what it claims to be; its text is one line for the user."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def one_line(text: object) -> str:
    r"""Return a text on one line that a terminal shows as it is: line ends and controls become `\n`, `\x1b` and so on.

    File names, headers and what servers answer come from anyone.
    """
    return "".join(
        char.encode("unicode_escape").decode() if unicodedata.category(char) in _UNPRINTABLE else char
        for char in str(text)
    )
