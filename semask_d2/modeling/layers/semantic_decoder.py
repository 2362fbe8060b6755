"""The paper's semantic decoder: the sum of the stages' maps, without parameters (arXiv 2112.12782, section 3.3)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

SEMANTIC_MAPS = ("sem2", "sem3", "sem4", "sem5")


def decode_semantic_prior(features: dict[str, Tensor], *, align_corners: bool) -> Tensor | None:
    """The sum of the semantic maps `sem2`..`sem5` (B, K, h_i, w_i) at stride 4: (B, K, h_2, w_2).

    Coarser maps are doubled until they are at stride 4, then resized to `sem2`'s size, bilinearly. None where the
    backbone has no semantic maps. Mask heads use `align_corners` True, Semantic FPN False.
    """
    if SEMANTIC_MAPS[0] not in features:
        return None
    finest = features[SEMANTIC_MAPS[0]]
    total = finest
    for doublings, name in enumerate(SEMANTIC_MAPS[1:], start=1):
        x = features[name]
        for _ in range(doublings):
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=align_corners)
        total = total + F.interpolate(x, size=finest.shape[-2:], mode="bilinear", align_corners=align_corners)
    return total


def supervised_maps(features: dict[str, Tensor], *, per_stage: bool, align_corners: bool) -> list[Tensor]:
    """Return the maps that the prior loss supervises: their sum alone, or with `per_stage` each stage's own.

    The paper supervises the sum, under which a single map may hold anything. None where there are no semantic maps.
    """
    if per_stage:
        return [features[name] for name in SEMANTIC_MAPS if name in features]
    total = decode_semantic_prior(features, align_corners=align_corners)
    return [] if total is None else [total]
