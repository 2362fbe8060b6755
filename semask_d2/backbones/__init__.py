"""Hierarchical backbones with a semantic layer after each stage. Importing this package registers them."""

from semask_d2.backbones.swin import D2SeMaskSwinTransformer

__all__ = ["D2SeMaskSwinTransformer"]
