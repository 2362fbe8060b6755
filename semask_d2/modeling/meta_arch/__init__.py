"""Meta-architectures: complete models, from images to losses or scores. Importing this package registers them."""

from semask_d2.modeling.meta_arch.base import SemanticSegmenter
from semask_d2.modeling.meta_arch.build import build_model
from semask_d2.modeling.meta_arch.execution import Executed, Execution
from semask_d2.modeling.meta_arch.foreign import ForeignSegmenter, as_segmenter
from semask_d2.modeling.meta_arch.mask_former import SeMaskMaskFormer
from semask_d2.modeling.meta_arch.segmenter import Segmentation, Segmenter, in_batches
from semask_d2.modeling.meta_arch.semantic_fpn import SeMaskFPN
from semask_d2.modeling.meta_arch.sliding import SlidingWindows, refuse_segments, with_sliding

__all__ = [
    "Executed",
    "Execution",
    "ForeignSegmenter",
    "SeMaskFPN",
    "SeMaskMaskFormer",
    "Segmentation",
    "Segmenter",
    "SemanticSegmenter",
    "SlidingWindows",
    "as_segmenter",
    "build_model",
    "in_batches",
    "refuse_segments",
    "with_sliding",
]
