"""`semask web`: a page on this machine where a picture is dropped and segmented."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from semask_d2.engine.launch import guarded
from semask_d2.inference.drawing import RUNS
from semask_d2.inference.web_page import build_page, current_predictor, serve
from semask_d2.utils.errors import UserError, printable
from semask_d2.utils.runs import require_run, trained_runs

PORT = 7860


def argument_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=prog, description="Serve a page where a picture is dropped and segmented. Ctrl-C ends it."
    )
    parser.add_argument("--run", metavar="DIR", help=f"run folder to begin with (default: newest run in {RUNS}/)")
    parser.add_argument("--port", type=int, default=PORT, metavar="N", help=f"(default {PORT})")
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="127.0.0.1 (default): for this machine alone"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def main(args: argparse.Namespace) -> None:
    """Serve the page until the user ends it."""
    if not 0 < args.port < 65536:
        raise UserError(f"--port {args.port}: expected a number from 1 to 65535")
    page = build_page(choose_runs(args.run))
    address = serve(page, args.host, args.port)
    print(printable(f"The page is at {address} (Ctrl-C ends it)"), flush=True)
    page.block_thread()


def choose_runs(first: str | None) -> list[Path]:
    """The trained runs to offer: `first`, and those under `output`, the newest first.

    Raises `UserError` where there is none, and where `first` is no trained run or its model cannot be built.
    """
    runs = trained_runs(RUNS)
    if first is not None:
        require_run(first)
        chosen = Path(first)
        runs = [chosen, *(run for run in runs if run.resolve() != chosen.resolve())]
    if not runs:
        raise UserError(f"no trained run under {Path(RUNS).resolve()}: name one with --run DIR, or train one")
    current_predictor(runs[0])  # what is wrong with it shows now
    return runs


def command_line(arguments: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    """Run the words of a command line, by default this process's; returns the exit code."""
    args = argument_parser(prog).parse_args(arguments)
    return guarded(main, args, debug=args.debug)
