"""Hierarchical backbones with a semantic layer after each stage. Importing this package registers them."""

from semask_d2.backbones.mit import D2SeMaskMixTransformer
from semask_d2.backbones.swin import D2SeMaskSwinTransformer
from semask_d2.backbones.timm_backbone import SeMaskTimm

__all__ = ["D2SeMaskMixTransformer", "D2SeMaskSwinTransformer", "SeMaskTimm"]
