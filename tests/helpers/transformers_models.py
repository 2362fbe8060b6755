"""Small transformers models with random parameters, as references for the project's models of the same config."""

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


def reference_config(
    family: str, *, backbone: str = "swin", classes: int = CLASSES, small: bool = True, **settings: Any
) -> Any:
    """Return transformers' config for a model of this family; without `small`, with the size of published models.

    `settings` are passed to the config of the backbone.
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
    """Return transformers' model class of a family."""
    pytest.importorskip("transformers", reason="needs transformers, of the extra dev")
    from transformers import Mask2FormerForUniversalSegmentation, MaskFormerForInstanceSegmentation

    return {"mask2former": Mask2FormerForUniversalSegmentation, "maskformer": MaskFormerForInstanceSegmentation}[family]


def reference_model(family: str, backbone: str = "swin") -> Any:
    """Return a small model with random parameters, and batch norms with the statistics of random images."""
    model = randomize(model_class(family)(reference_config(family, backbone=backbone)))
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    if norms:
        for norm in norms:
            norm.momentum = None  # the mean of all batches so far
        with torch.no_grad():
            model.train()(pixel_values=2 * torch.randn(4, 3, 64, 96))
    return model.eval()


@torch.no_grad()
def reference_logits(model: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return class logits (B, Q, K + 1) and mask logits (B, Q, H/4, W/4) of a transformers model."""
    output = model(pixel_values=images)
    return output.class_queries_logits, output.masks_queries_logits


@torch.no_grad()
def project_logits(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return class and mask logits of one of the project's models."""
    predictions = model.sem_seg_head(model.backbone(images))
    return predictions.class_logits[-1], predictions.mask_logits()
