"""Shared functions of the benchmarks: timing variants in turn, printing the table, and saving the results."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

Way = Callable[[], object]  # a variant to be timed
Seconds = Mapping[str, list[float]]
Columns = Mapping[str, Mapping[str, float]]


class Cost(NamedTuple):
    """Cost of a task at one size: the seconds of each run, and the peak memory in MB."""

    seconds: list[float]
    peak: float

    @property
    def median(self) -> float:
        """Median of the seconds."""
        return statistics.median(self.seconds)


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return the command-line parser of a benchmark."""
    command_line = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    command_line.add_argument("--repeats", type=int, default=7, help="timed runs of each variant")
    command_line.add_argument("--json", type=Path, metavar="FILE", help="also add the results to this file")
    return command_line


def machine() -> str:
    """Return a description of the machine and the software."""
    import torch  # imported here, because child processes start with this process's memory (see startup.py)

    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
    else:
        lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
        name = f"{os.cpu_count()} cores of {name or platform.processor() or platform.machine()}"
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}, fp32 unless stated"


def time_of(way: Way) -> float:
    """Return the seconds of one run."""
    import torch  # imported here for the reason above

    start = time.perf_counter()
    way()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def time_in_turn(ways: Mapping[str, Way], repeats: int) -> dict[str, list[float]]:
    """Return the seconds of each variant's runs after one warm-up, in turn, so that machine drift affects all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for run in range(repeats + 1):
        for name, way in ways.items():
            value = time_of(way)
            if run:
                seconds[name].append(value)
    return seconds


def report(title: str, ways: Mapping[str, Way], arguments: argparse.Namespace) -> None:
    """Time the variants in this process, print the table and write the JSON."""
    show(title, time_in_turn(ways, arguments.repeats), arguments)


def show(
    title: str,
    seconds: Seconds,
    arguments: argparse.Namespace,
    peaks: Mapping[str, float] | None = None,
    columns: Columns = MappingProxyType({}),
) -> None:
    """Print seconds and, if given, peak memory in MB of each variant relative to the first; write them as JSON.

    `columns` holds additional values for some of the variants, by column name.
    """
    base = next(iter(seconds))
    memory = "" if peaks is None else " peak MB | times less |"
    print(f"\n{title} ({machine()})\n")
    print(f"| way | median, ms | lowest | highest | times faster |{memory}{''.join(f' {name} |' for name in columns)}")
    print("|---|---|---|---|---|" + ("" if peaks is None else "---|---|") + "---|" * len(columns))
    for name, values in seconds.items():
        median = statistics.median(values)
        row = f"| {name} | {1000 * median:.1f} | {1000 * min(values):.1f} | {1000 * max(values):.1f} "
        row += f"| {statistics.median(seconds[base]) / median:.2f} |"
        if peaks is not None:
            row += f" {peaks[name]:.0f} | {peaks[base] / max(peaks[name], 1):.2f} |"
        row += "".join(f" {values[name]:.2f} |" if name in values else " |" for values in columns.values())
        print(row, flush=True)
    figures = {"machine": machine(), "seconds": dict(seconds)} | {name: dict(x) for name, x in columns.items()}
    keep(title, figures if peaks is None else {**figures, "peak MB": dict(peaks)}, arguments.json)


def keep(title: str, figures: dict, path: Path | None) -> None:
    """Add the figures to a JSON file under their title."""
    if path:
        kept = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**kept, title: figures}, indent=1))
