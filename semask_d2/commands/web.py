"""`semask web`: a page on this machine where a picture is dropped and segmented."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from semask_d2.commands import arguments
from semask_d2.inference.sources import RUNS, find_source
from semask_d2.inference.web_page import build_page, current_predictor, serve
from semask_d2.utils.errors import UserError, printable
from semask_d2.utils.runs import trained_runs

PORT = 7860


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.description = "Serve a page where a picture is dropped and segmented. Ctrl-C ends it."
    text = f"run folder, checkpoint or folder of transformers to begin with (default: newest run in {RUNS}/)"
    arguments.add_weights(parser, text, old_name="--run")
    arguments.add_device(parser)
    parser.add_argument("--port", type=int, default=PORT, metavar="N", help=f"(default {PORT})")
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="127.0.0.1 (default): for this machine alone"
    )
    arguments.add_settings(parser)


def run(args: argparse.Namespace) -> None:
    """Serve the page until the user ends it."""
    if not 0 < args.port < 65536:
        raise UserError(f"--port {args.port}: expected a number from 1 to 65535")
    page = build_page(choose_sources(args.weights, args.opts, option=args.weights_option), args.opts)
    address = serve(page, args.host, args.port)
    print(printable(f"The page is at {address} (Ctrl-C ends it)"), flush=True)
    page.block_thread()


def choose_sources(first: str | None, opts: Sequence[str] = (), *, option: str = "--weights") -> list[Path]:
    """The models to offer: `first`, and the trained runs under `output`, the newest first.

    Raises `UserError` where there is none, and where the first one cannot be built.
    """
    sources = trained_runs(RUNS)
    if first is not None:
        find_source(first, option)
        chosen = Path(first)
        sources = [chosen, *(run for run in sources if run.resolve() != chosen.resolve())]
    if not sources:
        raise UserError(f"no trained run under {Path(RUNS).resolve()}: name one with {option} DIR, or train one")
    current_predictor(sources[0], tuple(opts), option=option)  # what is wrong with it shows now
    return sources
