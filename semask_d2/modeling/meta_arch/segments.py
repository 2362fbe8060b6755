"""Panoptic maps and instances from queries (Mask2Former, arXiv 2112.01527; MaskFormer, 2107.06278, section 3.4).

Full-size masks, one float per query and pixel, would be the largest tensor of inference. Only a map of winners and some
sums are needed, so masks are computed in bands of rows, and each band is discarded.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from semask_d2.d2 import Boxes, Instances
from semask_d2.modeling.meta_arch.score_maps import QueryMasks, argmax_of_channels


def panoptic_segmentation(
    queries: QueryMasks, *, things: Collection[int], object_mask_threshold: float, overlap_threshold: float
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Return Detectron2's `panoptic_seg`: a map (H, W) int32 of segment ids, 0 for void, and a dict for each segment.

    Queries with a class probability above `object_mask_threshold` compete: each pixel goes to the largest product of
    class and mask probability. A segment is kept if it wins at least `overlap_threshold` of the pixels where its mask
    probability reaches 0.5, and it is painted where it both wins and reaches 0.5. Segments of the classes `things` stay
    separate; those of any other class are merged. The dicts have `id`, `isthing`, `category_id` and `score`.
    """
    height, width = queries.output_size
    device = queries.mask_logits.device
    scores, classes = queries.class_logits.softmax(-1).max(-1)
    kept = ((classes != queries.class_logits.shape[1] - 1) & (scores > object_mask_threshold)).nonzero().flatten()
    number = len(kept)
    if not number:
        return torch.zeros(height, width, dtype=torch.int32, device=device), []
    scores, classes = scores[kept], classes[kept].tolist()
    # winner of each pixel, plus `number` where it is painted
    places = torch.empty(height, width, dtype=torch.int32, device=device)
    mask_areas, counts = (torch.zeros(length, dtype=torch.int64, device=device) for length in (number, 2 * number))
    for start, logits in queries.bands(kept):
        probability = logits.sigmoid()
        winner = argmax_of_channels(probability * scores)
        reaches = probability.gather(-1, winner[..., None])[..., 0] >= 0.5
        place = torch.add(winner, reaches, alpha=number)
        counts += place.flatten().bincount(minlength=2 * number)
        mask_areas += probability.ge_(0.5).sum(0).sum(0, dtype=torch.int64)  # several times as fast as summing bools
        places[start : start + len(logits)] = place
    painted = counts[number:]
    won = counts[:number] + painted
    place_to_id = torch.zeros(2 * number, dtype=torch.int32)
    segments: list[dict[str, Any]] = []
    stuff_ids: dict[int, int] = {}
    shares = (won.double() / mask_areas.clamp(min=1)).tolist()
    for query, (category, area, score) in enumerate(zip(classes, painted.tolist(), scores.tolist(), strict=True)):
        if not area or shares[query] < overlap_threshold:
            continue
        is_thing = category in things
        if not is_thing and category in stuff_ids:
            place_to_id[number + query] = stuff_ids[category]
            continue
        segments.append({"id": len(segments) + 1, "isthing": is_thing, "category_id": category, "score": score})
        place_to_id[number + query] = len(segments)
        if not is_thing:
            stuff_ids[category] = len(segments)
    return place_to_id.to(device).index_select(0, places.flatten()).view(height, width), segments


def instance_segmentation(queries: QueryMasks, *, classes: Collection[int] | None, limit: int) -> Instances:
    """Return Detectron2's `instances`: the `limit` most probable (query, class) pairs, each with the mask of its query.

    Only pairs with a class in `classes` remain (None: all). Fields: `pred_masks` (N, H, W) bool, True for logits above
    0; `pred_boxes` around them, 0 for empty masks; `pred_classes` (N,); `scores` (N,), class probability times the mean
    mask probability within the mask.
    """
    height, width = queries.output_size
    probability = queries.class_logits.softmax(-1)[:, :-1]
    scores, pairs = probability.flatten().topk(min(limit, probability.numel()))
    category, query = pairs % probability.shape[1], pairs // probability.shape[1]
    if classes is not None:
        selected = torch.isin(category, torch.tensor(sorted(classes), dtype=category.dtype, device=category.device))
        scores, category, query = scores[selected], category[selected], query[selected]
    used, place = query.unique(return_inverse=True)
    masks = torch.zeros(len(used), height, width, dtype=torch.bool, device=probability.device)
    sums, counts = (torch.zeros(len(used), device=probability.device) for _ in range(2))
    for start, logits in queries.bands(used) if len(used) else ():
        inside = logits > 0
        masks[:, start : start + len(logits)] = inside.permute(2, 0, 1)
        sums += (logits.sigmoid() * inside).sum((0, 1))
        counts += inside.sum((0, 1))
    boxes = boxes_around(masks)
    return Instances(
        (height, width),
        pred_masks=masks[place],
        pred_boxes=Boxes(boxes[place]),
        scores=scores * (sums / (counts + 1e-6))[place],
        pred_classes=category,
    )


def boxes_around(masks: Tensor) -> Tensor:
    """Return the boxes x0, y0, x1, y1 (N, 4) around masks (N, H, W) bool, ends exclusive; 0 for empty masks."""
    sides = []
    for occupied in (masks.any(1), masks.any(2)):  # columns, rows
        length = occupied.shape[1]
        first = occupied.int().argmax(1)
        last = length - occupied.flip(1).int().argmax(1)
        sides.append(torch.stack([first, last], 1) * occupied.any(1, keepdim=True))
    (x0, x1), (y0, y1) = (side.unbind(1) for side in sides)
    return torch.stack([x0, y0, x1, y1], 1).float()
