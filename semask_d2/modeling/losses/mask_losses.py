"""How predicted masks are compared with true ones, as matching costs and as losses.

Mask2Former: binary cross-entropy and dice on points (arXiv 2112.01527, section 3.3). MaskFormer: focal loss and dice on
all pixels (arXiv 2107.06278, section 3.2).
"""

from __future__ import annotations

from typing import ClassVar, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from semask_d2.modeling.layers.points import sample_class_masks, sample_points
from semask_d2.utils.arguments import require

CPU_COST_POINTS = 448  # at which costs are computed at a time on a CPU; 12,544 are 28 times as many
ALPHA, GAMMA = 0.25, 2  # of the focal loss (arXiv 1708.02002)


class MaskLoss(Protocol):
    """How the masks of one image are compared: two terms, "mask" and "dice", as matching costs and as losses.

    `labels` are one map (H, W) that holds `classes` (M,) where the M true masks are, or these as (M, H, W).
    """

    def costs(self, embed: Tensor, features: Tensor, labels: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """`embed` (N, C), `features` (C, h, w), `labels` (H, W), `classes` (M,) -> two (N, M) cost matrices."""
        ...

    def losses(self, embed: Tensor, features: Tensor, labels: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """As `costs`, for the L x M matched pairs, `embed` (L, M, C) -> the two losses of each pair, (L, M)."""
        ...


def dice(probability: Tensor, target: Tensor) -> Tensor:
    """1 - (2 sum pt + 1) / (sum p + sum t + 1) over the last dimension of two tensors (..., P)."""
    overlap = (probability * target).sum(-1)
    return 1 - (2 * overlap + 1) / (probability.sum(-1) + target.sum(-1) + 1)


def pairwise_dice(probability: Tensor, target: Tensor) -> Tensor:
    """`dice` of every row of `probability` (N, P) with every row of `target` (M, P): (N, M)."""
    overlap = probability @ target.T
    return 1 - (2 * overlap + 1) / (probability.sum(1, keepdim=True) + target.sum(1) + 1)


def log_sum(values: Tensor) -> Tensor:
    """`values.log().sum(-1)` of values (..., P) from 1/2 to 1, with few logarithms, the slowest of a CPU's functions.

    They are multiplied first, up to 64 together: no product is below 2 ** -64.
    """
    for _ in range(6):
        if values.shape[-1] % 2:
            break
        first, second = values.chunk(2, dim=-1)
        values = first * second
    return values.log().sum(-1)


def indices_of_least(values: Tensor, number: int) -> Tensor:
    """Where the `number` least of `values` (..., P) are, in no order: (..., number)."""
    if values.device.type != "cpu" or number in (0, values.shape[-1]):
        return values.topk(number, largest=False, sorted=False).indices
    # three times as fast as torch's
    return torch.from_numpy(np.argpartition(values.numpy(), number, axis=-1)[..., :number].copy())


class PointMaskLoss:
    """Costs on `num_points` uniform points an image; losses on points that are partly the most uncertain ones.

    For the losses, `oversample_ratio` x `num_points` uniform candidates are drawn, each mask keeps the
    `importance_sample_ratio` x `num_points` where its logit is nearest to zero, and fresh uniform points fill up.
    The points of the costs are shared by the masks and decoder layers of an image, the candidates by the masks of a
    layer: for each mask they are uniform, and the samples of all become one product. Candidates shared by the layers,
    too, would make the losses' variance, summed over the layers, twice as large.
    """

    config_keys: ClassVar = {
        "num_points": "MODEL.MASK_FORMER.TRAIN_NUM_POINTS",
        "oversample_ratio": "MODEL.MASK_FORMER.OVERSAMPLE_RATIO",
        "importance_sample_ratio": "MODEL.MASK_FORMER.IMPORTANCE_SAMPLE_RATIO",
    }

    def __init__(self, num_points: int, oversample_ratio: float, importance_sample_ratio: float):
        require(num_points >= 1, self, "num_points", "at least 1", num_points)
        wanted = f"between 0 and 1 and at most OVERSAMPLE_RATIO ({oversample_ratio})"
        share = importance_sample_ratio
        require(0 <= share <= min(1, oversample_ratio), self, "importance_sample_ratio", wanted, share)
        self.num_points = num_points
        self.num_candidates = int(num_points * oversample_ratio)
        self.num_uncertain = int(num_points * importance_sample_ratio)

    def costs(self, embed: Tensor, features: Tensor, labels: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """`embed` (N, C), `features` (C, h, w), `labels` (H, W), `classes` (M,) -> two (N, M) cost matrices."""
        points = torch.rand(self.num_points, 2, device=embed.device)
        # sampling is linear, so the features are sampled once for all queries
        samples = sample_points(features[None], points[None])[0]
        target = sample_class_masks(labels, points, classes)
        softplus, correlation, probability, overlap = self.cost_sums(embed, samples, target)
        # softplus(-x) t + softplus(x) (1 - t) = softplus(x) - x t
        mask_cost = (softplus[:, None] - correlation) / self.num_points
        dice_cost = 1 - (2 * overlap + 1) / (probability[:, None] + target.sum(1) + 1)
        return mask_cost, dice_cost

    @staticmethod
    def cost_sums(embed: Tensor, samples: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Sums over the points of softplus(x), x t, p and p t, where x = `embed` @ `samples` (C, P) and p = sigmoid(x).

        (N,), (N, M), (N,) and (N, M) for `target` (M, P). On a CPU some points at a time, whose numbers stay in cache.
        """
        step = CPU_COST_POINTS if embed.device.type == "cpu" else samples.shape[1]
        totals: list[Tensor] = []
        for part, part_target in zip(samples.split(step, dim=1), target.split(step, dim=1), strict=True):
            logits = embed @ part
            probability = logits.sigmoid()
            correlation, overlap = logits @ part_target.T, probability @ part_target.T
            # softplus(x) = relu(x) - log max(p, 1 - p)
            larger = torch.maximum(probability, 1 - probability)
            softplus = logits.relu_().sum(1) - log_sum(larger)
            sums = [softplus, correlation, probability.sum(1), overlap]
            totals = [total.add_(x) for total, x in zip(totals, sums, strict=True)] if totals else sums
        softplus, correlation, probability, overlap = totals
        return softplus, correlation, probability, overlap

    def losses(self, embed: Tensor, features: Tensor, labels: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """`embed` (L, M, C) of the matched queries -> binary cross-entropy and dice of each pair, (L, M)."""
        layers = len(embed)
        logit_maps = torch.einsum("lmc,chw->lmhw", embed, features)
        points = self.choose_points(logit_maps.detach())
        logits = sample_points(logit_maps.flatten(0, 1)[:, None], points.flatten(0, 1)).squeeze(1)
        target = sample_class_masks(labels, points, classes).flatten(0, 1)
        mask_loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(1)
        return mask_loss.view(layers, -1), dice(logits.sigmoid(), target).view(layers, -1)

    @torch.no_grad()
    def choose_points(self, logit_maps: Tensor) -> Tensor:
        """Points (L, M, num_points, 2) for `logit_maps` (L, M, h, w)."""
        layers, masks = logit_maps.shape[:2]
        candidates = torch.rand(layers, self.num_candidates, 2, device=logit_maps.device)
        certainty = sample_points(logit_maps, candidates).abs()  # (L, M, candidates)
        uncertain = indices_of_least(certainty, self.num_uncertain)
        chosen = candidates.gather(1, uncertain.flatten(1)[..., None].expand(-1, -1, 2)).view(layers, masks, -1, 2)
        num_fresh = self.num_points - self.num_uncertain
        fresh = torch.rand(layers, masks, num_fresh, 2, device=logit_maps.device)
        return torch.cat([chosen, fresh], dim=2)


def focal_terms(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The focal loss of each logit where its target is 1, and where it is 0."""
    probability = logits.sigmoid()
    positive = ALPHA * (1 - probability) ** GAMMA * F.softplus(-logits)
    negative = (1 - ALPHA) * probability**GAMMA * F.softplus(logits)
    return positive, negative


class DenseMaskLoss:
    """Costs at the masks' own resolution, with the labels resized to it; losses at the labels' resolution."""

    def costs(self, embed: Tensor, features: Tensor, labels: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """`embed` (N, C), `features` (C, h, w), `labels` (H, W), `classes` (M,) -> two (N, M) cost matrices."""
        logits = embed @ features.flatten(1)
        maps = labels if labels.dim() == 3 else labels[None]
        small = F.interpolate(maps[None].float(), size=features.shape[-2:], mode="nearest")[0].flatten(1)
        target = (small if labels.dim() == 3 else small == classes[:, None]).to(logits.dtype)
        positive, negative = focal_terms(logits)
        mask_cost = (positive @ target.T + negative @ (1 - target).T) / logits.shape[1]
        return mask_cost, pairwise_dice(logits.sigmoid(), target)

    def losses(self, embed: Tensor, features: Tensor, labels: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """`embed` (L, M, C) of the matched queries -> focal loss and dice of each pair, (L, M)."""
        logit_maps = torch.einsum("lmc,chw->lmhw", embed, features)
        logits = F.interpolate(logit_maps, size=labels.shape[-2:], mode="bilinear", align_corners=False)
        target = labels > 0 if labels.dim() == 3 else labels == classes[:, None, None]
        mask_loss = torch.where(target, *focal_terms(logits)).mean((2, 3))
        return mask_loss, dice(logits.sigmoid().flatten(2), target.flatten(1))
