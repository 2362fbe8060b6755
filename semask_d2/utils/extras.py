"""How to install the libraries of an extra of this package, in the words of an error message."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, requires

DISTRIBUTION = "semask_d2"
REQUIREMENT = re.compile(r"""(?P<name>[\w.-]+)[^;]*;\s*extra\s*==\s*["'](?P<extra>[\w.-]+)["']""")


def install_command(extra: str) -> str:
    """Return the command that installs the libraries which the extra lists.

    It does not name this package, which no index is promised to have. Where the package is not installed but lies on
    the path, its list is unknown, and the command is that of a clone.
    """
    try:
        lines = requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        lines = []
    found = [match for line in lines if (match := REQUIREMENT.fullmatch(line.strip()))]
    names = sorted({match["name"] for match in found if match["extra"] == extra and match["name"] != DISTRIBUTION})
    return f"pip install {' '.join(names)}" if names else f'pip install -e ".[{extra}]" in a clone of this project'
