#!/usr/bin/env python3
"""Benchmark of matching and losses with gradients: the plain formulation as published, and this project's.

    python benchmarks/criterion.py [--classes 10 60] [--layers 10] [--queries 100] [--batch 2] [--size 512]
                                   [--points 12544] [--repeats N] [--json FILE]

`--classes` lists numbers of classes per image. The published formulation (Mask2Former, arXiv 2112.01527, section 3.3)
computes every query's mask and every class's binary mask, layer by layer and image by image.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from processes import report_processes
from scipy.optimize import linear_sum_assignment
from timing import Way, parser
from torch import Tensor

from semask_d2.modeling.losses.mask_losses import PointMaskLoss
from semask_d2.modeling.losses.set_criterion import SetCriterion
from semask_d2.modeling.losses.targets import build_targets
from semask_d2.modeling.transformer_decoders import MaskPredictions

NUM_CLASSES, IGNORE_LABEL, CHANNELS, STRIDE = 150, 255, 256, 4
CLASS_WEIGHT, MASK_WEIGHT, DICE_WEIGHT, NO_OBJECT_WEIGHT = 2.0, 5.0, 5.0, 0.1
OVERSAMPLE_RATIO, IMPORTANCE_RATIO = 3.0, 0.75


def make_predictions(layers: int, images: int, queries: int, size: int) -> MaskPredictions:
    """Return random predictions that require gradients."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shapes = (
        (layers, images, queries, NUM_CLASSES + 1),
        (layers, images, queries, CHANNELS),
        (images, CHANNELS, size // STRIDE, size // STRIDE),
    )
    values = [torch.randn(shape, device=device) for shape in shapes]
    values[1] /= CHANNELS**0.5  # makes mask logits of about one
    return MaskPredictions(*(value.requires_grad_() for value in values))


def make_labels(images: int, classes: int, size: int) -> list[Tensor]:
    """Return label maps (size, size) of tiles, each with `classes` classes."""
    side = 8
    while side * side < classes:
        side *= 2
    maps = []
    for _ in range(images):
        present = torch.randperm(NUM_CLASSES)[:classes].to(torch.uint8)
        tiles = present[torch.arange(side * side) % classes][torch.randperm(side * side)].view(side, side)
        maps.append(tiles.repeat_interleave(size // side, 0).repeat_interleave(size // side, 1))
    return maps


def samples(masks: Tensor, points: Tensor) -> Tensor:
    """Return bilinear samples (M, P) of `masks` (M, H, W) at `points` (M, P, 2)."""
    return F.grid_sample(masks[:, None], 2 * points[:, None] - 1, align_corners=False)[:, 0, 0]


@torch.no_grad()
def published_match(
    class_logits: Tensor, masks: Tensor, targets: Tensor, ids: Tensor, points: int
) -> tuple[Tensor, Tensor]:
    """Match queries and targets of one layer and image.

    `class_logits` are (Q, K + 1), `masks` (Q, h, w), `targets` (M, H, W).
    """
    locations = torch.rand(1, points, 2, device=masks.device)
    logits = samples(masks, locations.expand(len(masks), -1, -1))
    target_samples = samples(targets, locations.expand(len(targets), -1, -1))
    positive = F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits), reduction="none")
    negative = F.binary_cross_entropy_with_logits(logits, torch.zeros_like(logits), reduction="none")
    mask_cost = (positive @ target_samples.T + negative @ (1 - target_samples).T) / points
    probability = logits.sigmoid()
    overlap = 2 * probability @ target_samples.T
    dice_cost = 1 - (overlap + 1) / (probability.sum(1)[:, None] + target_samples.sum(1)[None] + 1)
    class_cost = -class_logits.softmax(-1)[:, ids]
    cost = CLASS_WEIGHT * class_cost + MASK_WEIGHT * mask_cost + DICE_WEIGHT * dice_cost
    queries, chosen = linear_sum_assignment(cost.cpu())
    return torch.as_tensor(queries, device=masks.device), torch.as_tensor(chosen, device=masks.device)


@torch.no_grad()
def uncertain_points(masks: Tensor, points: int) -> Tensor:
    """Return points (M, P, 2) for `masks` (M, h, w), three quarters of them where the mask is least certain."""
    candidates = torch.rand(len(masks), int(points * OVERSAMPLE_RATIO), 2, device=masks.device)
    number = int(points * IMPORTANCE_RATIO)
    nearest = (-samples(masks, candidates).abs()).topk(number, dim=1).indices
    chosen = candidates.gather(1, nearest[..., None].expand(-1, -1, 2))
    return torch.cat([chosen, torch.rand(len(masks), points - number, 2, device=masks.device)], 1)


def published_losses(predictions: MaskPredictions, labels: list[Tensor], points: int) -> Tensor:
    """Return the sum of all layers' weighted losses."""
    device = predictions.mask_features.device
    ids = [label_map.unique().long().to(device) for label_map in labels]
    targets = [(x.to(device) == i[:, None, None]).float() for x, i in zip(labels, ids, strict=True)]
    count = max(sum(map(len, ids)), 1)
    weight = torch.ones(NUM_CLASSES + 1, device=device)
    weight[-1] = NO_OBJECT_WEIGHT
    total = torch.zeros((), device=device)
    for layer, class_logits in enumerate(predictions.class_logits):
        masks = predictions.mask_logits(layer)
        target_classes = torch.full(class_logits.shape[:2], NUM_CLASSES, device=device)
        matched, matched_targets = [], []
        for i, image_ids in enumerate(ids):
            queries, chosen = published_match(class_logits[i], masks[i], targets[i], image_ids, points)
            target_classes[i, queries] = image_ids[chosen]
            matched.append(masks[i][queries])
            matched_targets.append(targets[i][chosen])
        matched_masks, target_masks = torch.cat(matched), torch.cat(matched_targets)
        locations = uncertain_points(matched_masks, points)
        logits, target = samples(matched_masks, locations), samples(target_masks, locations)
        mask_loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(1).sum() / count
        probability = logits.sigmoid()
        dice = 1 - (2 * (probability * target).sum(1) + 1) / (probability.sum(1) + target.sum(1) + 1)
        class_loss = F.cross_entropy(class_logits.transpose(1, 2), target_classes, weight)
        total = total + CLASS_WEIGHT * class_loss + MASK_WEIGHT * mask_loss + DICE_WEIGHT * dice.sum() / count
    return total


def project_losses(predictions: MaskPredictions, labels: list[Tensor], points: int) -> Tensor:
    """Return the same sum, computed by the project's criterion."""
    device = predictions.mask_features.device
    criterion = SetCriterion(
        PointMaskLoss(points, OVERSAMPLE_RATIO, IMPORTANCE_RATIO),
        num_classes=NUM_CLASSES,
        class_weight=CLASS_WEIGHT,
        mask_weight=MASK_WEIGHT,
        dice_weight=DICE_WEIGHT,
        no_object_weight=NO_OBJECT_WEIGHT,
        deep_supervision=True,
        class_weights=(),
    ).to(device)
    targets = build_targets(
        labels,
        (labels[0].shape[0], labels[0].shape[1]),
        num_classes=NUM_CLASSES,
        ignore_label=IGNORE_LABEL,
        device=device,
        names=[f"image {i}" for i in range(len(labels))],
    )
    return torch.stack(list(criterion(predictions, targets).values())).sum()


WAYS = {"as published": published_losses, "this project": project_losses}


def losses_and_gradients(
    way: str, classes: int, *, layers: int, queries: int, images: int, size: int, points: int
) -> Way:
    """Return the forward and backward pass of the losses of random predictions."""
    predictions = make_predictions(layers, images, queries, size)
    labels = make_labels(images, classes, size)
    return lambda: torch.autograd.grad(WAYS[way](predictions, labels, points), predictions)


def main() -> None:
    command_line = parser(__doc__)
    command_line.add_argument("--classes", type=int, nargs="+", default=[10, 60])
    command_line.add_argument("--layers", type=int, default=10)
    command_line.add_argument("--queries", type=int, default=100)
    command_line.add_argument("--batch", type=int, default=2)
    command_line.add_argument("--size", type=int, default=512)
    command_line.add_argument("--points", type=int, default=12544)
    arguments = command_line.parse_args()
    for classes in arguments.classes:
        make = partial(
            losses_and_gradients,
            classes=classes,
            layers=arguments.layers,
            queries=arguments.queries,
            images=arguments.batch,
            size=arguments.size,
            points=arguments.points,
        )
        side = arguments.size
        title = f"criterion, {classes} classes in each of {arguments.batch} images of {side} x {side}"
        report_processes(title, {way: partial(make, way) for way in WAYS}, arguments)


if __name__ == "__main__":
    main()
