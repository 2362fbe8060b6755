"""Small models with the encoder-only head, here and in transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import semask_d2
from semask_d2.d2 import CfgNode
from tests.helpers.commands import ROOT
from tests.helpers.tiny_model import CLASSES, randomize

BLOCKS, QUERIES = 3, 8
SMALL = {"hidden_size": 48, "num_hidden_layers": 7, "num_attention_heads": 3, "num_blocks": BLOCKS}
SMALL |= {"num_queries": QUERIES, "num_labels": CLASSES}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "DINOv2": ("eomt", {}),
    "DINOv2 giant": ("eomt", {"use_swiglu_ffn": True}),
    "DINOv3": ("eomt_dinov3", {"intermediate_size": 192}),
    "DINOv3 without biases": ("eomt_dinov3", {"intermediate_size": 192, "query_bias": False, "value_bias": False}),
}
# with absolute, rotary, and per-block rotary positions
VITS = ("vit_tiny_patch16_224", "vit_small_patch16_dinov3_qkvb", "vit_small_patch16_rope_mixed_224")


def eomt_classes(family: str) -> tuple[Any, Any]:
    """Return transformers' classes of the config and the model."""
    transformers = pytest.importorskip("transformers", reason="needs transformers, of the extra dev")
    name = {"eomt": "Eomt", "eomt_dinov3": "EomtDinov3"}[family]
    return getattr(transformers, f"{name}Config"), getattr(transformers, f"{name}ForUniversalSegmentation")


def reference_eomt(
    variant: str, size: int = 64, patch: int = 16, *, probabilities: tuple[float, ...] = (0,) * BLOCKS
) -> Any:
    """Return a small random model of transformers for images of a side."""
    family, settings = VARIANTS[variant]
    config, model = eomt_classes(family)
    doublings = {8: 1, 16: 2, 32: 3}[patch]
    built = model(config(**SMALL, **settings, image_size=size, patch_size=patch, num_upscale_blocks=doublings))
    randomize(built).attn_mask_probs.copy_(torch.tensor(probabilities))
    return built.eval()


def eomt_cfg(**options: object) -> CfgNode:
    """Return the config of a small model; keyword `options` are keys with `__` instead of dots."""
    settings: dict[str, object] = {
        "MODEL.DEVICE": "cpu",
        "MODEL.VIT.NAME": VITS[0],
        "MODEL.VIT.PATCH_SIZE": 16,
        "MODEL.VIT.IMG_SIZE": 64,
        "MODEL.VIT.EMBED_DIM": 48,
        "MODEL.VIT.DEPTH": 7,
        "MODEL.VIT.NUM_HEADS": 3,
        "MODEL.VIT.JOINT_BLOCKS": BLOCKS,
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": CLASSES,
        "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": QUERIES,
        "MODEL.MASK_FORMER.TRAIN_NUM_POINTS": 64,
    }
    settings |= {key.replace("__", "."): value for key, value in options.items()}
    words = [word for pair in settings.items() for word in pair]
    return semask_d2.get_cfg(ROOT / "configs/toy_scenes/eomt_vit_tiny.yaml", words)


def eomt_model(**options: object) -> nn.Module:
    """Return a small random model of `eomt_cfg`."""
    return randomize(semask_d2.build_model(eomt_cfg(**options)))
