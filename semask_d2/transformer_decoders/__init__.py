"""Transformer decoders: queries to the class and the mask embedding of each predicted segment."""

from .base import TRANSFORMER_DECODER_REGISTRY, MaskPredictions, build_transformer_decoder
from .mask2former import MultiScaleMaskedTransformerDecoder

__all__ = [
    "TRANSFORMER_DECODER_REGISTRY",
    "MaskPredictions",
    "MultiScaleMaskedTransformerDecoder",
    "build_transformer_decoder",
]
