"""Errors that a user can correct."""

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Error that the user can correct; its message names the file, key or value, what was expected, and what to do.

    Entry points print it as one line and exit with a non-zero code; only `--debug` shows the traceback.
    """


class UnreadableFile(UserError):
    """Error for a file that is missing, damaged, in an unknown format or not a regular file; callers may skip it."""


@contextmanager
def user_errors_alone() -> Iterator[None]:
    """Raise user errors of a block, or of a decorated function, without the errors of libraries that caused them."""
    try:
        yield
    except UserError as error:
        raise error from None


def printable(text: str) -> str:
    """Return `text` for a terminal: control and unprintable characters are escaped (\\x1b), line breaks are kept."""
    return "".join(
        char if char == "\n" or char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text
    )
