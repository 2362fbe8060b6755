"""Pixel decoders: backbone features to per-pixel mask features, and to the maps a transformer decoder attends to."""

from .base import PIXEL_DECODER_REGISTRY, PixelDecoderOutput, build_pixel_decoder
from .msdeform import MSDeformAttnPixelDecoder, MSDeformAttnPixelFANDecoder

__all__ = [
    "PIXEL_DECODER_REGISTRY",
    "MSDeformAttnPixelDecoder",
    "MSDeformAttnPixelFANDecoder",
    "PixelDecoderOutput",
    "build_pixel_decoder",
]
