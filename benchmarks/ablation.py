#!/usr/bin/env python3
"""Does semantic attention help? Plain Swin, SeMask as released (its attention never learns) and SeMask live.

    python benchmarks/ablation.py [--config-file FILE] [--seeds 1 2 3] [--iterations N] [--parallel P] [--output DIR]

Every variant is trained by train_net.py from the same seeds with the same budget; prints mean and spread of the mIoU.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VARIANTS = {
    "plain Swin": ["MODEL.SWIN.NUM_SEM_BLOCKS", "0"],
    "SeMask, released initialization": ["MODEL.SWIN.SEM_INIT", "released"],
    "SeMask, live": ["MODEL.SWIN.SEM_INIT", "live"],
}


def train(arguments: argparse.Namespace, variant: str, seed: int) -> float:
    """The final mIoU of one run, in percent."""
    folder = Path(arguments.output, f"{variant} {seed}".replace(" ", "_").replace(",", ""))
    command = [sys.executable, ROOT / "train_net.py", "--config-file", arguments.config_file, *VARIANTS[variant]]
    command += ["SEED", seed, "SOLVER.MAX_ITER", arguments.iterations, "OUTPUT_DIR", folder, "TEST.EVAL_PERIOD", 0]
    threads = max(1, (os.cpu_count() or 1) // arguments.parallel)
    result = subprocess.run(
        list(map(str, command)),
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
        check=False,
    )
    match = re.search(r"mIoU (\d+\.\d+)\s*$", result.stdout)
    if result.returncode or not match:
        sys.exit(f"{variant}, seed {seed} failed:\n{result.stderr[-2000:]}")
    print(f"{variant}, seed {seed}: {match[1]}", flush=True)
    return float(match[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", default=ROOT / "configs/toy_scenes/semask_swin_mini_msfapn_m2f.yaml")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--parallel", type=int, default=1, help="runs at a time")
    parser.add_argument("--output", default="output/ablation")
    arguments = parser.parse_args()
    runs = [(variant, seed) for seed in arguments.seeds for variant in VARIANTS]
    with ThreadPoolExecutor(arguments.parallel) as pool:
        mious = dict(zip(runs, pool.map(lambda run: train(arguments, *run), runs), strict=True))
    print(f"\n| variant | mIoU, mean of {len(arguments.seeds)} seeds | standard deviation | lowest | highest |")
    print("|---|---|---|---|---|")
    for variant in VARIANTS:
        values = [mious[variant, seed] for seed in arguments.seeds]
        spread = statistics.stdev(values) if len(values) > 1 else float("nan")
        print(f"| {variant} | {statistics.mean(values):.2f} | {spread:.2f} | {min(values):.2f} | {max(values):.2f} |")


if __name__ == "__main__":
    main()
