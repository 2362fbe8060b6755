#!/usr/bin/env python3
"""Run all benchmarks one after another, collect their results in one JSON file, and print a summary.

    python benchmarks/run_all.py [--quick] [--peer] [--repeats N] [--json benchmarks.json]

This takes about half an hour on two cores. `--quick` uses tiny sizes and only shows that the scripts work. `--peer`
also runs the peers, which are installed with pip (transformers, openvino). The growth curves are plotted next to the
JSON file. ablation.py is not included, because it trains models.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from timing import parser

FOLDER = Path(__file__).resolve().parent
M2F = ("--config-file", "ade20k/semask_swin_t_m2f.yaml")
TINY = ("--config-file", "toy_scenes/semask_swin_mini_m2f.yaml", "--size", "64")
BOTH_PRECISIONS = ("--precision", "fp32", "bf16")


class Run(NamedTuple):
    """A script with the arguments of its full run and of a quick run (None: skipped there), and its peers."""

    script: str
    full: tuple[str, ...] = ()
    quick: tuple[str, ...] | None = ()
    peers: tuple[str, ...] = ()

    def command(self, *, quick: bool, peers: bool) -> list[str]:
        """Return the command line as a list."""
        words = self.quick or () if quick else self.full
        peer_words = ("--peer", *self.peers) if peers and self.peers else ()
        return [sys.executable, str(FOLDER / f"{self.script}.py"), *words, *peer_words]


RUNS = (
    Run("startup", quick=("--config", "toy_scenes/semask_swin_mini_m2f.yaml")),
    Run("layers", ("--backward",), ("--size", "64", "--backward")),
    Run("criterion", quick=("--classes", "3", "--layers", "2", "--queries", "5", "--size", "64", "--points", "64")),
    Run(
        "postprocessing",
        quick=("--size", "32", "64", "--queries", "3", "--classes", "4"),
        peers=("transformers",),
    ),
    Run(
        "panoptic",
        quick=("--size", "64", "--queries", "6", "--classes", "5", "--segments", "3"),
        peers=("transformers",),
    ),
    Run("mapper", quick=("--size", "40", "60", "--crop", "24", "--images", "2")),
    Run("inference", BOTH_PRECISIONS, None, ("openvino",)),
    Run("inference", (*M2F, *BOTH_PRECISIONS), (*TINY, *BOTH_PRECISIONS), ("transformers", "openvino")),
    Run("export", M2F, TINY),
    Run("training_step", M2F, TINY, ("transformers",)),
    Run(
        "growth",
        quick=(*TINY[:2], "--sizes", "64", "--batches", "1", "--classes", "--queries", "--base", "64", "1", "12", "9"),
    ),
    Run("throughput", quick=(*TINY[:2], "--size", "32", "32", "--images", "16")),
    Run(
        "folder_growth",
        ("--images", "100", "1000", "10000"),
        ("--images", "2", "4", "--steps", "listing", "check", "inputs", "--classes", "5", "--workers", "0"),
    ),
)


def summary(figures: dict[str, dict]) -> str:
    """Return a table that compares every variant with the first one of its benchmark."""
    lines = [
        "| benchmark | way | median, ms | beside | median, ms | times faster | times less memory |",
        "|---|---|---|---|---|---|---|",
    ]
    for title, figure in figures.items():
        medians = {way: statistics.median(values) for way, values in figure.get("seconds", {}).items()}
        for way in list(medians)[1:]:
            base = next(iter(medians))
            peaks = figure.get("peak MB")
            less = f"{peaks[base] / max(peaks[way], 1):.2f}" if peaks else ""
            faster = f"{medians[base] / medians[way]:.2f}"
            lines.append(
                f"| {title} | {way} | {1000 * medians[way]:.1f} | {base} | {1000 * medians[base]:.1f} "
                f"| {faster} | {less} |"
            )
    return "\n".join(lines)


def main() -> None:
    command_line = parser(__doc__)
    command_line.set_defaults(json=Path("benchmarks.json"), repeats=5)
    command_line.add_argument("--quick", action="store_true", help="tiny sizes")
    command_line.add_argument("--peer", action="store_true", help="also run the peers")
    arguments = command_line.parse_args()
    arguments.json.unlink(missing_ok=True)  # every script adds its results
    failed = []
    for run in RUNS:
        if arguments.quick and run.quick is None:
            continue
        words = run.command(quick=arguments.quick, peers=arguments.peer)
        words += ["--repeats", str(1 if arguments.quick else arguments.repeats), "--json", str(arguments.json)]
        if run.script == "growth":
            words += ["--plot", str(arguments.json.with_suffix(".png"))]
        print(f"\n## {' '.join(words[1:])}", flush=True)
        if subprocess.run(words, check=False).returncode:
            failed.append(run.script)
    print(f"\n## Summary\n\n{summary(json.loads(arguments.json.read_text()))}")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; the reasons are above")


if __name__ == "__main__":
    main()
