"""`semask COMMAND ...`, which `python -m semask_d2` runs too."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module

from semask_d2.commands.arguments import parse, require_settings
from semask_d2.commands.foreign_options import Parser
from semask_d2.commands.parsers import COMMANDS
from semask_d2.utils.extras import install_command

SHELLS = ("bash", "zsh", "tcsh")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = Parser(
        prog="semask",
        usage="semask COMMAND ... (see semask COMMAND --help)",
        description="SeMask: semantic segmentation.",
        formatter_class=partial(argparse.HelpFormatter, max_help_position=32),
    )
    parser.add_argument("--print-completion", choices=SHELLS, metavar="SHELL", help=f"for {', '.join(SHELLS)}")
    commands = parser.add_subparsers(prog="semask", title="commands", metavar="COMMAND", required=True)
    parsers = {name: commands.add_parser(name, help=command.help) for name, command in COMMANDS.items()}
    if words[:1] == ["--print-completion"] and words[1:] and words[1] in SHELLS:
        for name in COMMANDS:
            command_parser(name, parsers[name])
        return print_completion(parser, words[1])
    if not words or words[0] not in COMMANDS:
        parser.parse_args(words)  # prints the help or an error, and exits
    return run(words[0], words[1:], parsers[words[0]])


def print_completion(parser: argparse.ArgumentParser, shell: str) -> int:
    """Print a script that completes commands and options in a shell; return the exit code."""
    try:
        import shtab
    except ImportError:
        print(f"error: --print-completion needs shtab: {install_command('completion')}", file=sys.stderr)
        return 1
    print(shtab.complete(parser, shell))
    return 0


def script(name: str, arguments: Sequence[str] | None = None) -> int:
    """Run the command behind a script such as train_net.py and return its exit code."""
    return run(name, sys.argv[1:] if arguments is None else arguments, Parser())


def run(name: str, words: Sequence[str], parser: argparse.ArgumentParser) -> int:
    """Run a command with the words after its name; a user's mistake prints one line and returns exit code 1."""
    args = parse_arguments(name, words, parser)
    module = import_module(f"semask_d2.commands.{COMMANDS[name].module}")  # imported late: heavy, --help needs none
    from semask_d2.engine.launch import guarded

    def checked() -> None:
        require_settings(args.settings)
        module.run(args)

    return guarded(checked, debug=args.debug)


def parse_arguments(
    name: str, words: Sequence[str], parser: argparse.ArgumentParser | None = None
) -> argparse.Namespace:
    """Return the parsed arguments of a command; exit the program if they are wrong."""
    return parse(command_parser(name, parser), words)


def command_parser(name: str, parser: argparse.ArgumentParser | None = None) -> argparse.ArgumentParser:
    """Return `parser`, by default a new one, with the arguments of a command."""
    parser = Parser(prog=f"semask {name}") if parser is None else parser
    COMMANDS[name].add_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


if __name__ == "__main__":
    sys.exit(main())
