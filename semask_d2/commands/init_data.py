"""`semask init-data FOLDER`: a first description of a data set, to be completed by hand."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from semask_d2.data.guessing import as_yaml, guess
from semask_d2.engine.launch import guarded
from semask_d2.utils.errors import UserError, printable
from semask_d2.utils.files import atomic_write


def argument_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=prog, description="Look at a folder of images and label files, and write the YAML file that --data takes."
    )
    parser.add_argument("folder", metavar="FOLDER", help="where images and label files are, in any folders in it")
    parser.add_argument("--output", metavar="FILE", help="the file to write (default: the folder's name, as .yaml)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def main(args: argparse.Namespace) -> None:
    """Look, and write a file that is not there yet."""
    folder = Path(args.folder)
    output = Path(args.output or f"{folder.resolve().name}.yaml")
    if os.path.lexists(output):
        raise UserError(f"{output} is there already; remove it, or name another file with --output")
    guessed = guess(folder)
    with atomic_write(output) as file:
        file.write(as_yaml(guessed, folder))
    found = f"{len(guessed.colors)} colors" if guessed.colors else f"the ids {', '.join(map(str, guessed.ids[:20]))}"
    print(printable(f"Wrote {output} ({', '.join(guessed.splits)}; label files hold {found}): put the classes' names "
                    f"in, then semask check {output}"))  # fmt: skip


def command_line(arguments: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    """Run the words of a command line, by default this process's; returns the exit code."""
    args = argument_parser(prog).parse_args(arguments)
    return guarded(main, args, debug=args.debug)
