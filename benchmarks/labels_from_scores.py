#!/usr/bin/env python3
"""How long, and how much memory, masks take to become labels: whole maps against bands of rows.

    python benchmarks/labels_from_scores.py [--size 1024 2048] [--queries 100] [--classes 150] [--repeats 5]

Prints the median and the spread of each way's time and its peak memory beyond what it starts from. Each way runs in a
process of its own, on the same random masks; "whole maps" is the formula as it stands in the papers' code.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F
from torch import Tensor

from semask_d2.modeling.meta_arch.score_maps import ScoreMap, resized, row_elements, rows_of

STRIDE = 4


def whole_maps(masks: Tensor, probability: Tensor, size: tuple[int, int]) -> Tensor:
    """Labels from full-size masks (Q, H, W) and scores (K, H, W)."""
    masks = F.interpolate(masks[None], size=size, mode="bilinear", align_corners=False)[0]
    return torch.einsum("qk,qhw->khw", probability, masks.sigmoid()).argmax(0)


def bands(masks: Tensor, probability: Tensor, size: tuple[int, int]) -> Tensor:
    """Labels as the project's models make them."""
    full = resized(rows_of(masks), tuple(masks.shape[1:]), size)

    def scores(start: int, stop: int) -> Tensor:
        return full(start, stop).sigmoid() @ probability

    return ScoreMap(scores, size, row_elements(max(probability.shape), size), masks.device).labels()


WAYS = {"whole maps": whole_maps, "bands": bands}


def measure(way: str, arguments: argparse.Namespace) -> dict:
    """Seconds of each repeat, peak MB, and a digest of the labels, in this process."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    height, width = arguments.size
    masks = 5 * torch.randn(arguments.queries, height // STRIDE, width // STRIDE, device=device)
    probability = torch.randn(arguments.queries, arguments.classes, device=device).softmax(-1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    seconds = []
    with torch.inference_mode():
        for _ in range(arguments.repeats + 1):  # the first warms up
            start = time.perf_counter()
            checksum = int(WAYS[way](masks, probability, (height, width)).sum())  # waits for a GPU, too
            seconds.append(time.perf_counter() - start)
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**20
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
    return {"seconds": seconds[1:], "peak": peak, "checksum": checksum}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=[1024, 2048], help="height and width of the labels")
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--classes", type=int, default=150)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(measure(arguments.way, arguments)))
        return
    results = {}
    for way in WAYS:
        done = subprocess.run([sys.executable, *sys.argv, "--way", way], check=True, capture_output=True, text=True)
        results[way] = json.loads(done.stdout)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores"
    print(f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}, fp32")
    print("| way | median, s | lowest | highest | times faster | peak MB | times less |\n|---|---|---|---|---|---|---|")
    base = results["whole maps"]
    for way, result in results.items():
        seconds, median = result["seconds"], statistics.median(result["seconds"])
        faster, less = statistics.median(base["seconds"]) / median, base["peak"] / result["peak"]
        spread = f"{min(seconds):.3f} | {max(seconds):.3f}"
        print(f"| {way} | {median:.3f} | {spread} | {faster:.1f} | {result['peak']:.0f} | {less:.1f} |")
    same = results["bands"]["checksum"] == base["checksum"]
    print("The labels are the same." if same else "A few labels differ where two scores are equal to rounding.")


if __name__ == "__main__":
    main()
