"""What the benchmarks share: timing several ways in turn in one process, and printing and keeping the table."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

Way = Callable[[], object]


def parser(description: str) -> argparse.ArgumentParser:
    """The command line of a benchmark."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--repeats", type=int, default=7, help="counted runs of each way")
    made.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    return made


def machine() -> str:
    """What the figures were measured on."""
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
    else:
        lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
        name = f"{os.cpu_count()} cores of {name or platform.processor() or platform.machine()}"
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}, fp32"


def time_in_turn(ways: Mapping[str, Way], repeats: int) -> dict[str, list[float]]:
    """Seconds of each run of each way, the ways in turn so that a drift of the machine meets all; one warm-up each."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for run in range(repeats + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if run:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def report(title: str, ways: Mapping[str, Way], arguments: argparse.Namespace) -> None:
    """Time the ways, print the table (the first way is what the others are compared with), write the JSON."""
    seconds = time_in_turn(ways, arguments.repeats)
    base = statistics.median(next(iter(seconds.values())))
    print(f"\n{title} ({machine()})\n")
    print("| way | median, ms | lowest | highest | times faster |\n|---|---|---|---|---|")
    for name, values in seconds.items():
        median = statistics.median(values)
        spread = f"{1000 * min(values):.1f} | {1000 * max(values):.1f}"
        print(f"| {name} | {1000 * median:.1f} | {spread} | {base / median:.2f} |", flush=True)
    if arguments.json:
        figures = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
        figures[title] = {"machine": machine(), "seconds": seconds}
        arguments.json.write_text(json.dumps(figures, indent=1))
