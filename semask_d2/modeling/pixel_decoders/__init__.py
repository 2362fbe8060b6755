"""Pixel decoders: from backbone features to mask features and the maps that a transformer decoder attends to."""

from semask_d2.modeling.pixel_decoders.base import PIXEL_DECODER_REGISTRY, PixelDecoderOutput, build_pixel_decoder
from semask_d2.modeling.pixel_decoders.fpn import BasePixelDecoder, PixelFANDecoder
from semask_d2.modeling.pixel_decoders.msdeform import MSDeformAttnPixelDecoder, MSDeformAttnPixelFANDecoder

__all__ = [
    "PIXEL_DECODER_REGISTRY",
    "BasePixelDecoder",
    "MSDeformAttnPixelDecoder",
    "MSDeformAttnPixelFANDecoder",
    "PixelDecoderOutput",
    "PixelFANDecoder",
    "build_pixel_decoder",
]
