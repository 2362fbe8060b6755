#!/usr/bin/env python3
"""Benchmark of the start-up time and memory of commands, compared with importing torch alone.

    python benchmarks/startup.py [--config NAME] [--repeats N] [--json FILE]

Each run is a new process, timed from its start to its end, after one run that fills the disk cache. Memory is the
largest resident size of the process, including imports. This script does not import torch before measuring, because a
process initially has the memory of its parent.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from timing import parser, show

ROOT = Path(__file__).resolve().parents[1]


def commands(config: str) -> dict[str, list[str]]:
    """Return the arguments of `python` for each variant."""
    model = f"from semask_d2 import build_model, get_cfg; build_model(get_cfg({config!r}))"
    return {
        "import torch": ["-c", "import torch"],
        "import semask_d2": ["-c", "import semask_d2"],
        "semask --help": ["-m", "semask_d2", "--help"],
        "semask train --help": ["-m", "semask_d2", "train", "--help"],
        f"semask config {config}": ["-m", "semask_d2", "config", config],
        f"a model of {config}": ["-c", model],
    }


def run(words: list[str]) -> tuple[float, float]:
    """Return the seconds and peak resident MB of one process. Exits if it fails."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *words], cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(words)} failed; the reason is above")
    return seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def main() -> None:
    command_line = parser(__doc__)
    command_line.add_argument("--config", default="ade20k/semask_swin_t_msfapn_m2f.yaml", metavar="NAME")
    arguments = command_line.parse_args()
    ways = commands(arguments.config)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    peaks = dict.fromkeys(ways, 0.0)
    run(list(ways.values())[-1])
    for _ in range(arguments.repeats):
        for name, words in ways.items():
            value, peak = run(words)
            seconds[name].append(value)
            peaks[name] = max(peaks[name], peak)
    show("start-up", seconds, arguments, peaks)


if __name__ == "__main__":
    main()
