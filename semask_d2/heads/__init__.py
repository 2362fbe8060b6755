"""Heads: backbone features to predictions. Importing this package registers them."""

from .mask_former_head import BranchMaskFormerHead

__all__ = ["BranchMaskFormerHead"]
