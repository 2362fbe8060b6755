#!/usr/bin/env python3
"""Benchmark of computing labels at an image's original size from class and mask logits, in seconds and memory.

    python benchmarks/postprocessing.py [--size 1024 2048] [--input 1024 2048] [--queries 100] [--classes 150]
                                        [--peer transformers] [--skip-whole] [--repeats N] [--json FILE]

Masks have stride 4 of the network's `--input` (default: the size of the labels). Each variant runs in a separate
process on the same random logits. "whole maps" is the formula of the papers, which takes gigabytes for large images
(`--skip-whole` leaves it out). The peer transformers (pip install transformers) resizes masks to 384 x 384 whatever the
input; "this project, 384 x 384" computes the same labels.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from processes import Maker, report_processes
from timing import Way, parser
from torch import Tensor

from semask_d2.modeling.postprocessing import semantic_labels

STRIDE = 4
Size = tuple[int, int]


def make_logits(input_size: Size, queries: int, classes: int) -> tuple[Tensor, Tensor]:
    """Return random class logits (Q, K + 1) and mask logits (Q, h, w)."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    masks = torch.randn(queries, input_size[0] // STRIDE, input_size[1] // STRIDE, device=device)
    return torch.randn(queries, classes + 1, device=device), masks


def whole_maps(class_logits: Tensor, mask_logits: Tensor, size: Size, input_size: Size) -> Tensor:
    """Return labels (H, W) by the formula, with all maps whole."""
    probability = class_logits.softmax(-1)[:, :-1]
    masks = F.interpolate(mask_logits[None], size=input_size, mode="bilinear", align_corners=False)[0]
    scores = torch.einsum("qk,qhw->khw", probability, masks.sigmoid())
    return F.interpolate(scores[None], size=size, mode="bilinear", align_corners=False)[0].argmax(0)


def in_bands(class_logits: Tensor, mask_logits: Tensor, size: Size, input_size: Size) -> Tensor:
    """Return the labels of `whole_maps` by this project's function."""
    return semantic_labels(class_logits, mask_logits, size, input_size=input_size)


WAYS = {"whole maps": whole_maps, "this project": in_bands}


def labeling(way: str, size: Size, input_size: Size, logits_size: Size, queries: int, classes: int) -> Way:
    """Return the computation of labels; masks of stride 4 of `logits_size` are taken to cover `input_size`."""
    logits = make_logits(logits_size, queries, classes)

    @torch.inference_mode()
    def label() -> Tensor:
        return WAYS[way](*logits, size, input_size)

    return label


def main() -> None:
    command_line = parser(__doc__)
    command_line.add_argument("--size", type=int, nargs=2, default=[1024, 2048], help="height and width of the labels")
    command_line.add_argument("--input", type=int, nargs=2, help="height and width of the network's input")
    command_line.add_argument("--queries", type=int, default=100)
    command_line.add_argument("--classes", type=int, default=150)
    command_line.add_argument("--peer", nargs="+", choices=["transformers"], default=[])
    command_line.add_argument("--skip-whole", action="store_true", help="leave whole maps out")
    arguments = command_line.parse_args()
    size: Size = tuple(arguments.size)
    input_size: Size = tuple(arguments.input or arguments.size)
    rest = (input_size, arguments.queries, arguments.classes)
    makers: dict[str, Maker] = {
        way: partial(labeling, way, size, input_size, *rest)
        for way in WAYS
        if not (arguments.skip_whole and way == "whole maps")
    }
    if "transformers" in arguments.peer:
        import peer_transformers

        makers["transformers"] = partial(peer_transformers.semantic, size, *rest)
        rule = peer_transformers.MASK_SIZE
        makers[f"this project, {rule[0]} x {rule[1]}"] = partial(labeling, "this project", size, rule, *rest)
    title = f"labels, {arguments.queries} masks, {arguments.classes} classes, {size[0]} x {size[1]}"
    report_processes(f"{title}, input {input_size[0]} x {input_size[1]}", makers, arguments)


if __name__ == "__main__":
    main()
