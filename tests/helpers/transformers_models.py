"""Small models of transformers, random and far from where they start; what they are here is in config files."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.tiny_model import CLASSES, randomize

FAMILIES = ("mask2former", "maskformer")
BACKBONES = ("swin", "resnet")
SMALL = {
    "swin": {"embed_dim": 16, "depths": [1, 2, 1, 1], "num_heads": [1, 2, 2, 4], "window_size": 4},
    "resnet": {"embedding_size": 8, "hidden_sizes": [16, 32, 64, 128]},
}


def their_config(
    family: str, *, backbone: str = "swin", classes: int = CLASSES, small: bool = True, **settings: Any
) -> Any:
    """transformers' config of a model of this family; without `small`, of the size of the published ones.

    `settings` are those of its backbone.
    """
    pytest.importorskip("transformers", reason="needs transformers, of the extra dev")
    from transformers import DetrConfig, Mask2FormerConfig, MaskFormerConfig, ResNetConfig, SwinConfig

    settings = (SMALL[backbone] if small else {}) | settings
    settings["out_features"] = ["stage1", "stage2", "stage3", "stage4"]
    body = SwinConfig(**settings, drop_path_rate=0.0) if backbone == "swin" else ResNetConfig(**settings)
    sizes = {"mask_feature_size": 16} if small else {}
    if family == "mask2former":
        if small:
            sizes |= {"feature_size": 32, "hidden_dim": 32, "dim_feedforward": 48, "encoder_layers": 1}
            sizes |= {"decoder_layers": 4, "num_attention_heads": 4, "num_queries": 8}
        return Mask2FormerConfig(backbone_config=body, num_labels=classes, **sizes)
    decoder = DetrConfig()
    if small:
        sizes |= {"fpn_feature_size": 32}
        decoder = DetrConfig(d_model=32, decoder_layers=2, decoder_attention_heads=4, decoder_ffn_dim=48, num_queries=8)
    return MaskFormerConfig(backbone_config=body, decoder_config=decoder, num_labels=classes, **sizes)


def model_class(family: str) -> Any:
    """transformers' class of a family's models."""
    pytest.importorskip("transformers", reason="needs transformers, of the extra dev")
    from transformers import Mask2FormerForUniversalSegmentation, MaskFormerForInstanceSegmentation

    return {"mask2former": Mask2FormerForUniversalSegmentation, "maskformer": MaskFormerForInstanceSegmentation}[family]


def their_model(family: str, backbone: str = "swin") -> Any:
    """A small model, every parameter random; batch norms have the statistics of random images."""
    model = randomize(model_class(family)(their_config(family, backbone=backbone)))
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    if norms:
        for norm in norms:
            norm.momentum = None  # the mean of all batches so far
        with torch.no_grad():
            model.train()(pixel_values=2 * torch.randn(4, 3, 64, 96))
    return model.eval()


@torch.no_grad()
def their_logits(model: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Class logits (B, Q, K + 1) and mask logits (B, Q, H/4, W/4)."""
    output = model(pixel_values=images)
    return output.class_queries_logits, output.masks_queries_logits


@torch.no_grad()
def our_logits(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """The same of a model of ours."""
    predictions = model.sem_seg_head(model.backbone(images))
    return predictions.class_logits[-1], predictions.mask_logits()
