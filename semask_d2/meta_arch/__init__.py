"""Meta-architectures: whole models, from lists of images to losses or scores. Importing this package registers them."""

from semask_d2.meta_arch.build import build_model
from semask_d2.meta_arch.mask_former import SeMaskMaskFormer
from semask_d2.meta_arch.semantic_fpn import SeMaskFPN

__all__ = ["SeMaskFPN", "SeMaskMaskFormer", "build_model"]
