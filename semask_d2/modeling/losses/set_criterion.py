"""Loss of the mask models: match the queries of each decoder layer to targets, then compute class and mask losses.

Matching and losses process all decoder layers at once, and synchronize with the device once per step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semask_d2.d2 import comm
from semask_d2.modeling.losses.class_weights import class_weight_tensor
from semask_d2.modeling.losses.mask_losses import MaskLoss
from semask_d2.modeling.losses.matcher import solve_assignments
from semask_d2.modeling.losses.targets import Targets
from semask_d2.modeling.transformer_decoders import MaskPredictions
from semask_d2.utils.arguments import require


class SetCriterion(nn.Module):
    """Losses `loss_ce`, `loss_mask`, `loss_dice` of the last layer, and with the suffix `_{i}` of each earlier one.

    The weights apply to matching costs and to losses. Sums over masks are divided by the number of target
    masks over all processes.
    """

    empty_weight: Tensor
    config_keys: ClassVar = {
        "num_classes": "MODEL.SEM_SEG_HEAD.NUM_CLASSES",
        "class_weight": "MODEL.MASK_FORMER.CLASS_WEIGHT",
        "mask_weight": "MODEL.MASK_FORMER.MASK_WEIGHT",
        "dice_weight": "MODEL.MASK_FORMER.DICE_WEIGHT",
        "no_object_weight": "MODEL.MASK_FORMER.NO_OBJECT_WEIGHT",
        "deep_supervision": "MODEL.MASK_FORMER.DEEP_SUPERVISION",
        "class_weights": "MODEL.SEM_SEG_HEAD.CLASS_WEIGHTS",
    }

    def __init__(
        self,
        mask_loss: MaskLoss,
        *,
        num_classes: int,
        class_weight: float,
        mask_weight: float,
        dice_weight: float,
        no_object_weight: float,
        deep_supervision: bool,
        class_weights: Sequence[float | str],
    ):
        super().__init__()
        weights = {"class_weight": class_weight, "mask_weight": mask_weight, "dice_weight": dice_weight}
        for name, weight in {**weights, "no_object_weight": no_object_weight}.items():
            require(weight >= 0, self, name, "at least 0", weight)
        self.mask_loss = mask_loss
        self.num_classes = num_classes
        self.class_weight, self.mask_weight, self.dice_weight = class_weight, mask_weight, dice_weight
        self.deep_supervision = deep_supervision
        empty_weight = torch.ones(num_classes + 1)
        empty_weight[-1] = no_object_weight
        weights_by_class = class_weight_tensor(self, class_weights, num_classes)
        if weights_by_class is not None:
            empty_weight[:-1] = weights_by_class
        self.register_buffer("empty_weight", empty_weight, persistent=False)

    def forward(self, predictions: MaskPredictions, targets: Targets) -> dict[str, Tensor]:
        """Return the weighted losses by name, all in fp32."""
        with torch.autocast(predictions.mask_embed.device.type, enabled=False):
            predictions = predictions.float()
            if not self.deep_supervision:
                predictions = predictions.last()
            matches = self.match(predictions, targets)
            class_loss = self.class_loss(predictions.class_logits, targets, matches)
            mask_loss, dice_loss = self.mask_losses(predictions, targets, matches)
        layers = len(class_loss)
        losses = {}
        for i in range(layers):
            suffix = "" if i == layers - 1 else f"_{i}"
            losses[f"loss_ce{suffix}"] = self.class_weight * class_loss[i]
            losses[f"loss_mask{suffix}"] = self.mask_weight * mask_loss[i]
            losses[f"loss_dice{suffix}"] = self.dice_weight * dice_loss[i]
        return losses

    @torch.no_grad()
    def match(self, predictions: MaskPredictions, targets: Targets) -> list[Tensor]:
        """Return the query of each target: per image (L, M_i) on the predictions' device, -1 for targets left over."""
        layers, device = len(predictions.mask_embed), predictions.mask_embed.device
        costs = []
        for i, ids in enumerate(targets.class_ids):
            groups = [
                self.mask_loss.costs(embed[:, i].flatten(0, 1), features[i], targets.masks[i], targets.segment_ids[i])
                for embed, features in predictions.groups()
            ]
            mask_cost, dice_cost = (torch.cat(parts) for parts in zip(*groups, strict=True))
            class_cost = -predictions.class_logits[:, i].softmax(-1)[..., ids]
            cost = self.mask_weight * mask_cost + self.dice_weight * dice_cost
            costs.append(self.class_weight * class_cost + cost.unflatten(0, (layers, -1)))
        matches = solve_assignments(costs)
        packed = torch.from_numpy(np.concatenate(matches, axis=1))  # (L, sum of M_i): one copy to the device
        if device.type == "cuda" and torch.cuda.is_available():
            packed = packed.pin_memory()
        return list(packed.to(device, non_blocking=True).split([match.shape[1] for match in matches], dim=1))

    def class_loss(self, class_logits: Tensor, targets: Targets, matches: list[Tensor]) -> Tensor:
        """Return the cross-entropy of each layer, (L,); unmatched queries have the target "no object"."""
        layers, batch, queries, _ = class_logits.shape
        # an extra column absorbs the writes of targets left over (-1)
        target_classes = class_logits.new_full((layers, batch, queries + 1), self.num_classes, dtype=torch.int64)
        for i, (ids, match) in enumerate(zip(targets.class_ids, matches, strict=True)):
            target_classes[:, i].scatter_(1, match % (queries + 1), ids.expand_as(match))
        target_classes = target_classes[..., :queries]
        loss = F.cross_entropy(
            class_logits.flatten(0, 2), target_classes.flatten(), weight=self.empty_weight, reduction="none"
        )
        total = self.empty_weight[target_classes].view(layers, -1).sum(1)
        # if all targets of a layer have weight 0, its loss is 0 instead of 0 / 0
        return loss.view(layers, -1).sum(1) / torch.where(total > 0, total, 1)

    def mask_losses(
        self, predictions: MaskPredictions, targets: Targets, matches: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return the "mask" and "dice" losses of each layer, (L,) each."""
        # zero, but connected to every prediction, so that ranks without targets take part in the gradient exchange
        mask_loss = predictions.mask_embed.sum((1, 2, 3)) * 0
        for features in predictions.maps:
            mask_loss = mask_loss + features.sum() * 0
        dice_loss = mask_loss
        for i, (ids, match) in enumerate(zip(targets.class_ids, matches, strict=True)):
            if not len(ids):
                continue
            groups, queries = predictions.groups(), match.clamp(min=0)[..., None]
            parts = []
            for (embed, features), query in zip(groups, queries.split(len(queries) // len(groups)), strict=True):
                matched = embed[:, i].gather(1, query.expand(-1, -1, embed.shape[-1]))
                parts.append(self.mask_loss.losses(matched, features[i], targets.masks[i], targets.segment_ids[i]))
            mask_losses, dice_losses = (torch.cat(part) for part in zip(*parts, strict=True))
            assigned = match >= 0
            mask_loss = mask_loss + (mask_losses * assigned).sum(1)
            dice_loss = dice_loss + (dice_losses * assigned).sum(1)
        count = self.mean_num_masks(targets, mask_loss.device)
        return mask_loss / count, dice_loss / count

    def mean_num_masks(self, targets: Targets, device: torch.device) -> Tensor:
        """Return the number of target masks per process, averaged over processes and at least 1.

        In evaluation mode it is the local number, because processes may evaluate different numbers of images.
        """
        # unlike `torch.tensor`, this copies nothing to the device
        count = torch.full((), float(targets.num_masks), device=device)
        if self.training and comm.get_world_size() > 1:
            torch.distributed.all_reduce(count)
            count /= comm.get_world_size()
        return count.clamp(min=1)
