"""`semask web`: serve a local drag-and-drop demo page."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from semask_d2.checkpoint.hub import SCHEME, local_source
from semask_d2.inference.sources import find_source
from semask_d2.inference.web_page import build_page, current_predictor, serve
from semask_d2.utils.errors import UserError, printable
from semask_d2.utils.runs import RUNS, trained_runs


def run(args: argparse.Namespace) -> None:
    """Serve the page until the user stops it."""
    if not 0 < args.port < 65536:
        raise UserError(f"--port {args.port}: expected a number from 1 to 65535")
    page = build_page(choose_sources(args.weights, args.opts, option=args.weights_option), args.opts)
    address = serve(page, args.host, args.port)
    print(printable(f"The page is at {address} (press Ctrl-C to stop)"), flush=True)
    page.block_thread()


def choose_sources(first: str | None, opts: Sequence[str] = (), *, option: str = "--weights") -> list[Path]:
    """Return the models to offer: `first`, then the trained runs under `output`, newest first.

    Raises `UserError` if there is none, or if the first one cannot be built.
    """
    sources = trained_runs(RUNS)
    if first is not None:
        find_source(first, option)
        chosen = Path(local_source(first) if first.startswith(SCHEME) else first)  # a path has no double slash
        sources = [chosen, *(run for run in sources if run.resolve() != chosen.resolve())]
    if not sources:
        raise UserError(f"no trained run under {Path(RUNS).resolve()}: name one with {option} DIR, or train one")
    current_predictor(sources[0], tuple(opts), option=option)  # report its faults now, not in the browser
    return sources
