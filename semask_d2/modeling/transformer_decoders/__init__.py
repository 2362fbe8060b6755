"""Transformer decoders: queries to the class and the mask embedding of each predicted segment."""

from semask_d2.modeling.transformer_decoders.base import (
    TRANSFORMER_DECODER_REGISTRY,
    MaskPredictions,
    build_transformer_decoder,
)
from semask_d2.modeling.transformer_decoders.mask2former import MultiScaleMaskedTransformerDecoder
from semask_d2.modeling.transformer_decoders.maskformer import StandardTransformerDecoder

__all__ = [
    "TRANSFORMER_DECODER_REGISTRY",
    "MaskPredictions",
    "MultiScaleMaskedTransformerDecoder",
    "StandardTransformerDecoder",
    "build_transformer_decoder",
]
