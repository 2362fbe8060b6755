#!/usr/bin/env python3
"""Benchmark of computing labels from masks, in seconds and memory: whole maps against bands of rows.

    python benchmarks/labels_from_scores.py [--size 1024 2048] [--queries 100] [--classes 150]
                                            [--repeats N] [--json FILE]

Each variant runs in a separate process on the same random masks; "whole maps" is the formula as in the papers.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from processes import report_processes
from timing import Way, parser
from torch import Tensor

from semask_d2.modeling.meta_arch.score_maps import ScoreMap, resized, row_elements, rows_of

STRIDE = 4


def whole_maps(masks: Tensor, probability: Tensor, size: tuple[int, int]) -> Tensor:
    """Return labels (H, W) from mask logits (Q, h, w) and class probabilities (Q, K)."""
    masks = F.interpolate(masks[None], size=size, mode="bilinear", align_corners=False)[0]
    return torch.einsum("qk,qhw->khw", probability, masks.sigmoid()).argmax(0)


def bands(masks: Tensor, probability: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the labels of `whole_maps`, computed in bands of rows like the project's models do."""
    full = resized(rows_of(masks), tuple(masks.shape[1:]), size)

    def scores(start: int, stop: int) -> Tensor:
        return full(start, stop).sigmoid() @ probability

    return ScoreMap(scores, size, row_elements(max(probability.shape), size), masks.device).labels()


WAYS = {"whole maps": whole_maps, "bands": bands}


def labeling(way: str, size: tuple[int, int], queries: int, classes: int) -> Way:
    """Return the computation of labels from random masks."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    masks = torch.randn(queries, size[0] // STRIDE, size[1] // STRIDE, device=device)
    probability = torch.randn(queries, classes + 1, device=device).softmax(-1)[:, :-1].contiguous()

    @torch.inference_mode()
    def label() -> Tensor:
        return WAYS[way](masks, probability, size)

    return label


def main() -> None:
    command_line = parser(__doc__)
    command_line.add_argument("--size", type=int, nargs=2, default=[1024, 2048], help="height and width of the labels")
    command_line.add_argument("--queries", type=int, default=100)
    command_line.add_argument("--classes", type=int, default=150)
    arguments = command_line.parse_args()
    size, queries, classes = tuple(arguments.size), arguments.queries, arguments.classes
    title = f"labels, {queries} masks, {classes} classes, {size[0]} x {size[1]}"
    report_processes(title, {way: partial(labeling, way, size, queries, classes) for way in WAYS}, arguments)


if __name__ == "__main__":
    main()
