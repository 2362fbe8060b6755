"""Hierarchical backbones with a semantic layer after each stage. Importing this package registers them."""

from .swin import D2SeMaskSwinTransformer

__all__ = ["D2SeMaskSwinTransformer"]
