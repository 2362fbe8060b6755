"""`semask config FILE [KEY VALUE ...]`: print every setting of a config with the file that set it."""

from __future__ import annotations

import argparse

from semask_d2.commands import arguments
from semask_d2.config.sources import config_with_sources, settings_table
from semask_d2.utils.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the arguments of the command."""
    parser.description = "Print every setting of a config with the file that set it; nothing is trained."
    parser.add_argument("--set", action="store_true", help="omit settings that still have their default")
    parser.add_argument(
        "file", nargs="?", metavar="FILE", help="a path, or a name such as ade20k/semask_swin_l_m2f.yaml"
    )
    arguments.add_config_file(parser, "another way to give FILE")
    arguments.add_device(parser)
    arguments.add_settings(parser)


def run(args: argparse.Namespace) -> None:
    """Print the table of settings."""
    if args.config_file and args.file:
        raise UserError(f"{args.file} and --config-file {args.config_file}: give only one config")
    if not (args.config_file or args.file):
        raise UserError("no config given: write semask config FILE, for example ade20k/semask_swin_l_m2f.yaml")
    print(settings_table(*config_with_sources(args.config_file or args.file, args.opts), defaults=not args.set))
