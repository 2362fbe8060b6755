"""Heads, which turn backbone features into predictions. Importing this package registers them."""

from semask_d2.modeling.heads.encoder_only import EncoderOnlyMaskHead
from semask_d2.modeling.heads.mask_former_head import BranchMaskFormerHead
from semask_d2.modeling.heads.semantic_fpn import SeMaskFPNHead

__all__ = ["BranchMaskFormerHead", "EncoderOnlyMaskHead", "SeMaskFPNHead"]
