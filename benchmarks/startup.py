#!/usr/bin/env python3
"""How long commands take to start, and their memory: each run a new process, beside one that imports torch alone.

    python benchmarks/startup.py [--config NAME] [--repeats N] [--json FILE]

Seconds from the start of a process to its end, after a run of the last one that fills the disk cache; memory is the
largest resident size of the whole process, imports included. This script imports no torch before it has measured,
because a process starts with the memory of the one that started it.
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
    """The words after `python` of each way."""
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
    """Seconds and peak resident MB of one process. Exits where it fails."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *words], cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(words)} failed; the reason stands above")
    return seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--config", default="ade20k/semask_swin_t_msfapn_m2f.yaml", metavar="NAME")
    arguments = made.parse_args()
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
