"""The error of everything that reads or fetches data."""


class DataError(ValueError):
    """A file or data set that is absent, damaged, or not what it claims to be; its text is one line for the user."""
