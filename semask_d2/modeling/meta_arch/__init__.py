"""Meta-architectures: whole models, from lists of images to losses or scores. Importing this package registers them."""

from semask_d2.modeling.meta_arch.base import Segmentation, SemanticSegmenter
from semask_d2.modeling.meta_arch.build import build_model
from semask_d2.modeling.meta_arch.foreign import ForeignSegmenter, as_segmenter
from semask_d2.modeling.meta_arch.mask_former import SeMaskMaskFormer
from semask_d2.modeling.meta_arch.semantic_fpn import SeMaskFPN

__all__ = [
    "ForeignSegmenter",
    "SeMaskFPN",
    "SeMaskMaskFormer",
    "Segmentation",
    "SemanticSegmenter",
    "as_segmenter",
    "build_model",
]
