"""The exception that a user's own mistake raises."""


class UserError(Exception):
    """A mistake that the user can correct: the message names the file, key or value, what was expected, what to do.

    Entry points print it as one line and exit with a non-zero code; only `--debug` shows the traceback.
    """


class UnreadableFile(UserError):
    """A file that is missing, damaged, of no known format or no regular file; of many, it may be left out."""


def printable(text: str) -> str:
    """`text` for a terminal: whatever it could take for a command or not show is spelled out, as \\x1b; lines stay."""
    return "".join(
        char if char == "\n" or char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text
    )
