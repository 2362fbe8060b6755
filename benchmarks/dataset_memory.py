#!/usr/bin/env python3
"""Benchmark of the memory of data-loading processes with a large dataset, stored as lists of dicts and as bytes.

    python benchmarks/dataset_memory.py [--records 118000] [--workers 4]

Each variant creates the same synthetic COCO-like records in a separate process, and its workers read every record
twice. The output shows the proportional set sizes (PSS) of the workers, which count a shared page once, and the
seconds.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset

from semask_d2.data.serialized import SerializedDicts
from semask_d2.data.workers import worker_settings

WAYS = ("dicts", "bytes")
ANNOTATIONS, NUMBERS = 7, 40  # annotations per record, coordinates per polygon


class Read(Dataset):
    """A dataset that reads each record in full, as a mapper does."""

    def __init__(self, records: Any):
        self.records = records

    def __len__(self) -> int:
        return 2 * len(self.records)

    def __getitem__(self, index: int) -> dict[str, float]:
        record = self.records[index % len(self.records)]
        return {"sum": sum(sum(x["segmentation"][0]) + x["area"] for x in record["annotations"])}


def make_records(count: int) -> list[dict[str, Any]]:
    numbers = random.Random(0)
    return [
        {
            "file_name": f"datasets/coco/train2017/{index:012d}.jpg",
            "image_id": index,
            "height": 480,
            "width": 640,
            "annotations": [
                {
                    "segmentation": [[round(numbers.random() * 640, 2) for _ in range(NUMBERS)]],
                    "area": numbers.random(),
                    "iscrowd": 0,
                    "bbox": [numbers.random() for _ in range(4)],
                    "category_id": 1,
                }
                for _ in range(ANNOTATIONS)
            ],
        }
        for index in range(count)
    ]


def proportional_mb(pid: int) -> float:
    """Return the proportional set size of a process in MB, from /proc."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def measure(way: str, count: int, workers: int) -> dict[str, float]:
    """Return the measurements of one variant, taken in this process."""
    records: Any = make_records(count)
    start = time.perf_counter()
    if way == "bytes":
        records = SerializedDicts(records)
    made = time.perf_counter() - start
    loader: Any = DataLoader(Read(records), batch_size=64, **worker_settings(workers, "cpu"))
    start, batches = time.perf_counter(), len(loader)
    iterator = iter(loader)
    pids = [process.pid for process in iterator._workers]
    largest = 0.0
    for number, _ in enumerate(iterator):
        if number % max(1, batches // 10) == 0 or number > batches - 3:
            largest = max(largest, sum(map(proportional_mb, pids)))
    seconds = time.perf_counter() - start
    return {"workers MB": largest, "main MB": proportional_mb(os.getpid()), "made in s": made, "read in s": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--records", type=int, default=118_000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--way", choices=WAYS, help="measure only this variant, in this process")
    arguments = parser.parse_args()
    for way in WAYS if arguments.way is None else ():
        words = ("--way", way, "--records", str(arguments.records), "--workers", str(arguments.workers))
        subprocess.run([sys.executable, __file__, *words], check=True)
    if arguments.way:
        figures = measure(arguments.way, arguments.records, arguments.workers)
        print(arguments.way, ", ".join(f"{name} {value:.1f}" for name, value in figures.items()), flush=True)


if __name__ == "__main__":
    main()
