"""The light semantic decoder that sums the four stages' semantic maps (arXiv 2112.12782, section 3.3)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

PRIOR_FEATURES = ("sem2", "sem3", "sem4", "sem5")


def semantic_prior(features: dict[str, Tensor], *, align_corners: bool) -> Tensor | None:
    """The sum of the semantic maps `sem2`..`sem5` (B, K, h_i, w_i) at stride 4: (B, K, h_2, w_2).

    Coarser maps are doubled until they are at stride 4, then resized to `sem2`'s size, bilinearly. None where the
    backbone has no semantic maps. Mask heads use `align_corners` True, Semantic FPN False.
    """
    if PRIOR_FEATURES[0] not in features:
        return None
    finest = features[PRIOR_FEATURES[0]]
    total = finest
    for doublings, name in enumerate(PRIOR_FEATURES[1:], start=1):
        x = features[name]
        for _ in range(doublings):
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=align_corners)
        total = total + F.interpolate(x, size=finest.shape[-2:], mode="bilinear", align_corners=align_corners)
    return total
