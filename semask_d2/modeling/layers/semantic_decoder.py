"""Semantic decoder of the paper: a parameter-free sum of the stages' maps (arXiv 2112.12782, section 3.3)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

SEMANTIC_MAPS = ("sem2", "sem3", "sem4", "sem5")


def decode_semantic_prior(features: dict[str, Tensor], *, align_corners: bool) -> Tensor | None:
    """Return the sum of the semantic maps `sem2`..`sem5` (B, K, h_i, w_i) at the size of `sem2`: (B, K, h_2, w_2).

    Coarser maps are doubled up to its stride, then resized to its size, bilinearly; the maps of a plain ViT all have
    that size. None if the backbone has no semantic maps. Mask heads use `align_corners` True, Semantic FPN False.
    """
    if SEMANTIC_MAPS[0] not in features:
        return None
    finest = features[SEMANTIC_MAPS[0]]
    total = finest
    for doublings, name in enumerate(SEMANTIC_MAPS[1:], start=1):
        x = features[name]
        if x.shape != finest.shape:
            for _ in range(doublings):
                x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=align_corners)
            x = F.interpolate(x, size=finest.shape[-2:], mode="bilinear", align_corners=align_corners)
        total = total + x
    return total


def supervised_maps(features: dict[str, Tensor], *, per_stage: bool, align_corners: bool) -> list[Tensor]:
    """Return the maps that the prior loss supervises: their sum, or with `per_stage` the map of each stage.

    The paper supervises the sum, which leaves each single map free. The list is empty without semantic maps.
    """
    if per_stage:
        return [features[name] for name in SEMANTIC_MAPS if name in features]
    total = decode_semantic_prior(features, align_corners=align_corners)
    return [] if total is None else [total]
