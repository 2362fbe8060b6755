"""`semask config FILE [KEY VALUE ...]`: every setting of a config with the file that it comes from."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from semask_d2.config.sources import config_with_sources, settings_table
from semask_d2.engine.launch import guarded


def argument_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=prog, description="Print the settings of a config, each with the file that set it; nothing is trained."
    )
    parser.add_argument("--set", action="store_true", help="only what files or the command line set, no defaults")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("config_file", metavar="FILE", help="a path, or a name as ade20k/semask_swin_l_m2f.yaml")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="settings as KEY VALUE pairs, last")
    return parser


def main(args: argparse.Namespace) -> None:
    """Print the table."""
    print(settings_table(*config_with_sources(args.config_file, args.opts), defaults=not args.set))


def command_line(arguments: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    """Run the words of a command line, by default this process's; returns the exit code."""
    args = argument_parser(prog).parse_args(arguments)
    return guarded(main, args, debug=args.debug)
