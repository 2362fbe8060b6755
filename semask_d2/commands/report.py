"""`semask report`: a run's evaluation as one HTML page."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from semask_d2.engine.launch import guarded
from semask_d2.report import write_report
from semask_d2.report.page import IMAGES
from semask_d2.utils.errors import UserError, printable


def argument_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=prog, description="Write one HTML page about a run and its evaluations, which opens from disk."
    )
    parser.add_argument("--run", required=True, metavar="DIR", help="run folder with an evaluation in it")
    parser.add_argument("--output", metavar="FILE", help="the page (default: report.html in the run folder)")
    parser.add_argument(
        "--images", type=int, default=IMAGES, metavar="N", help=f"of each kind: worst, best, ... (default {IMAGES})"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def main(args: argparse.Namespace) -> None:
    """Write the page and say where."""
    if args.images < 0:
        raise UserError(f"--images {args.images}: expected a number from 0 on")
    print(printable(str(write_report(args.run, args.output, images=args.images))))


def command_line(arguments: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    """Run the words of a command line, by default this process's; returns the exit code."""
    args = argument_parser(prog).parse_args(arguments)
    return guarded(main, args, debug=args.debug)
