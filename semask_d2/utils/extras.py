"""Installation commands for the extras of this package, for error messages."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, requires

DISTRIBUTION = "semask_d2"
REQUIREMENT = re.compile(r"""(?P<name>[\w.-]+)[^;]*;\s*extra\s*==\s*["'](?P<extra>[\w.-]+)["']""")


def install_command(extra: str) -> str:
    """Return the command that installs the libraries of an extra.

    The command does not name this package, as it may not be on any package index. If the package is not installed but
    only on the path, the libraries are unknown, and the command is the one for a clone.
    """
    try:
        lines = requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        lines = []
    matches = [match for line in lines if (match := REQUIREMENT.fullmatch(line.strip()))]
    names = sorted({match["name"] for match in matches if match["extra"] == extra and match["name"] != DISTRIBUTION})
    return f"pip install {' '.join(names)}" if names else f'pip install -e ".[{extra}]" in a clone of this project'
