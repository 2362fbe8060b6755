#!/usr/bin/env python3
"""Benchmark of panoptic maps from class and mask logits: the plain formula, this project, and a peer.

    python benchmarks/panoptic.py [--size 512 640 1024] [--queries 100] [--classes 133] [--segments 20]
                                  [--peer transformers] [--repeats N] [--json FILE]

A size is the side of the square map. `--segments` is the number of queries with a confident class, as in a trained
model, all of which become segments; the other queries predict no object. Each variant runs in a separate process on the
same logits at stride 4. "Whole maps" is the rule as in the papers (arXiv 2107.06278, section 3.4). The peer
transformers (pip install transformers) always resizes masks to 384 x 384, so its map differs.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from processes import Maker, report_processes
from timing import Way, parser
from torch import Tensor

from semask_d2.modeling.meta_arch.score_maps import QueryMasks
from semask_d2.modeling.meta_arch.segments import panoptic_segmentation

STRIDE = 4
OBJECT_MASK_THRESHOLD = OVERLAP_THRESHOLD = 0.8
THING_SHARE = 0.6  # of the classes; COCO has 80 of 133


def make_logits(size: int, queries: int, classes: int, segments: int) -> tuple[Tensor, Tensor]:
    """Return class logits (Q, K + 1) and mask logits (Q, h, w).

    The first `segments` queries are cells that divide the map, the others are discs without an object.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    side = size // STRIDE
    class_logits = torch.randn(queries, classes + 1, device=device)
    target_classes = torch.full((queries,), classes, device=device)
    target_classes[:segments] = torch.randint(classes, (segments,), device=device)
    class_logits[torch.arange(queries, device=device), target_classes] += 12
    centers = torch.rand(queries, 2, device=device)
    place = (torch.arange(side, device=device) + 0.5) / side
    distance = ((centers[:, :1, None] - place[:, None]).square() + (centers[:, 1:, None] - place).square()).sqrt()
    limit = torch.full_like(distance, 0.2)
    nearest = distance[:segments].topk(min(2, segments), 0, largest=False).values
    limit[:segments] = torch.where(distance[:segments] == nearest[0], nearest[-1], nearest[0])
    return class_logits, 40 * (limit - distance)


def things_of(classes: int) -> range:
    """Return the thing classes, whose segments are not merged."""
    return range(int(THING_SHARE * classes))


def whole_maps(class_logits: Tensor, mask_logits: Tensor, size: tuple[int, int]) -> tuple[Tensor, list[dict]]:
    """Return the map (H, W) of segment ids, and a description of each segment."""
    classes = class_logits.shape[1] - 1
    things = things_of(classes)
    masks = F.interpolate(mask_logits[None], size=size, mode="bilinear", align_corners=False)[0].sigmoid()
    scores, labels = class_logits.softmax(-1).max(-1)
    kept = (labels != classes) & (scores > OBJECT_MASK_THRESHOLD)
    masks, scores, labels = masks[kept], scores[kept], labels[kept].tolist()
    result = torch.zeros(size, dtype=torch.int32, device=masks.device)
    segments: list[dict] = []
    stuff: dict[int, int] = {}
    if not labels:
        return result, segments
    winner = (scores[:, None, None] * masks).argmax(0)
    for query, label in enumerate(labels):
        won, inside = winner == query, masks[query] >= 0.5
        painted = won & inside
        if not painted.any() or won.sum() / inside.sum() < OVERLAP_THRESHOLD:
            continue
        if label in stuff:
            result[painted] = stuff[label]
            continue
        segments.append({"id": len(segments) + 1, "isthing": label in things, "category_id": label})
        result[painted] = len(segments)
        if label not in things:
            stuff[label] = len(segments)
    return result, segments


def bands(class_logits: Tensor, mask_logits: Tensor, size: tuple[int, int]) -> tuple[Tensor, list[dict]]:
    """Return the result of `whole_maps`, computed like in the project's models."""
    return panoptic_segmentation(
        QueryMasks(class_logits, mask_logits, size, size, size),
        things=things_of(class_logits.shape[1] - 1),
        object_mask_threshold=OBJECT_MASK_THRESHOLD,
        overlap_threshold=OVERLAP_THRESHOLD,
    )


WAYS = {"whole maps": whole_maps, "this project": bands}


def segmenting(way: str, size: int, queries: int, classes: int, segments: int) -> Way:
    """Return the computation of a panoptic map from synthetic logits."""
    logits = make_logits(size, queries, classes, segments)

    @torch.inference_mode()
    def segment() -> None:
        WAYS[way](*logits, (size, size))

    return segment


def main() -> None:
    command_line = parser(__doc__)
    command_line.add_argument("--size", type=int, nargs="+", default=[512, 640, 1024])
    command_line.add_argument("--queries", type=int, default=100)
    command_line.add_argument("--classes", type=int, default=133)
    command_line.add_argument("--segments", type=int, default=20)
    command_line.add_argument("--peer", nargs="+", choices=["transformers"], default=[])
    arguments = command_line.parse_args()
    queries, classes, segments = arguments.queries, arguments.classes, arguments.segments
    for size in arguments.size:
        shape = (size, queries, classes, segments)
        makers: dict[str, Maker] = {way: partial(segmenting, way, *shape) for way in WAYS}
        if "transformers" in arguments.peer:
            import peer_transformers

            makers["transformers"] = partial(peer_transformers.panoptic, *shape)
        title = f"panoptic map, {queries} queries, {segments} of them segments, {classes} classes, {size} x {size}"
        report_processes(title, makers, arguments)


if __name__ == "__main__":
    main()
