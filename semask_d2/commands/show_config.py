"""`semask config FILE [KEY VALUE ...]`: print every setting of a config with the file that set it."""

from __future__ import annotations

import argparse

from semask_d2.config.sources import config_with_sources, settings_table
from semask_d2.utils.errors import UserError


def run(args: argparse.Namespace) -> None:
    """Print the table of settings."""
    if args.config_file and args.file:
        raise UserError(f"{args.file} and --config-file {args.config_file}: give only one config")
    if not (args.config_file or args.file):
        raise UserError("no config given: write semask config FILE, for example ade20k/semask_swin_l_m2f.yaml")
    print(settings_table(*config_with_sources(args.config_file or args.file, args.opts), defaults=not args.set))
