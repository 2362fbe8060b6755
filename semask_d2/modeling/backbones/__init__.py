"""Backbones with a semantic layer after each stage, and the plain ResNet. Importing this package registers them."""

from semask_d2.modeling.backbones.mit import D2SeMaskMixTransformer
from semask_d2.modeling.backbones.resnet import ResNet
from semask_d2.modeling.backbones.swin import D2SeMaskSwinTransformer
from semask_d2.modeling.backbones.timm_backbone import SeMaskTimm
from semask_d2.modeling.backbones.vit import SeMaskViT

__all__ = ["D2SeMaskMixTransformer", "D2SeMaskSwinTransformer", "ResNet", "SeMaskTimm", "SeMaskViT"]
