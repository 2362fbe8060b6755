"""`semask config FILE [KEY VALUE ...]`: every setting of a config with the file that it comes from."""

from __future__ import annotations

from collections.abc import Sequence


def command_line(arguments: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    """Run the words of a command line, by default this process's; returns the exit code."""
    return 0
