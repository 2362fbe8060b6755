"""Commands of a documentation page, run as a reader would run them."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping

from semask_d2.__main__ import main
from tests.helpers.loggers import restored_loggers


def command_of(block: str) -> str:
    """Return the command in a block of a page on one line."""
    return block.strip().replace("\\\n    ", "")


def shortened(command: str, shorter: Mapping[str, str]) -> str:
    """Return the command with the arguments that make it quick, by the start of the command."""
    return command + "".join(f" {words}" for start, words in shorter.items() if command.startswith(start))


def follow(blocks: Iterable[tuple[str, str]], shorter: Mapping[str, str]) -> dict[str, str]:
    """Run blocks (language, text) in the working directory; return the output of commands other than `semask`.

    `semask` runs in this process, and every command must succeed.
    """
    printed = {}
    for language, block in blocks:
        if language == "python":
            exec(block, {})
            continue
        command = command_of(block)
        program, *words = shlex.split(shortened(command, shorter))
        if program == "semask":
            with restored_loggers():
                assert main(words) == 0, command
        else:
            done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            printed[command] = done.stdout
    return printed
