"""Conversion of EoMT's ViT settings between transformers and the project's config keys, for DINOv2 and DINOv3."""

from __future__ import annotations

import math
import re
from typing import Any

from semask_d2.config.transformers_backbones import RATE, Setting, TransformersBackbone, real, whole
from semask_d2.d2 import CfgNode
from semask_d2.utils.arguments import value_of
from semask_d2.utils.errors import UserError
from semask_d2.utils.foreign import Section, shown

VIT = "MODEL.VIT"
NAME_KEY = f"{VIT}.NAME"
MASK_STRIDE = 4
SIZES = (
    Setting("hidden_size", f"{VIT}.EMBED_DIM", 1024, whole(1, 2**14)),
    Setting("num_hidden_layers", f"{VIT}.DEPTH", 24, whole(1, 200)),
    Setting("num_attention_heads", f"{VIT}.NUM_HEADS", 16, whole(1, 256)),
    Setting("image_size", f"{VIT}.IMG_SIZE", 640, whole(1, 2**16)),
    Setting("patch_size", f"{VIT}.PATCH_SIZE", 16, whole(1, 256)),
    Setting("layer_norm_eps", f"{VIT}.NORM_EPS", 1e-6, real(0, 1)),
    Setting("drop_path_rate", f"{VIT}.DROP_PATH_RATE", 0.0, RATE),
    Setting("num_blocks", f"{VIT}.JOINT_BLOCKS", 4, whole(1, 200)),
)
FIXED = {
    "num_channels": 3,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "attention_dropout": 0.0,
    "num_register_tokens": 4,
}
REQUIRED = {
    "INPUT.CHANNELS": 3,
    "MODEL.BACKBONE.NAME": "SeMaskViT",
    f"{VIT}.NUM_SEM_BLOCKS": 0,
    f"{VIT}.OUT_INDICES": [],
}
DINOV2 = re.compile(r"vit_(small|base|large|giant)_patch14_reg4_dinov2(\..*)?")
DINOV3 = re.compile(r"vit_(tiny|small|base|large)_patch16_dinov3(_qkvb)?(\..*)?")
# models of timm, by biases of queries and values; sizes are separate keys
DINOV3_NAMES = {True: "vit_large_patch16_dinov3_qkvb", False: "vit_large_patch16_dinov3"}


def upscalings(patch: int) -> int:
    """Return the number of doublings from patches to masks."""
    return max(0, round(math.log2(patch / MASK_STRIDE)))


def read_common(config: dict[str, Any], source: str) -> dict[str, Any]:
    """Return the values that follow from the image size: the model sees images and windows of it alone."""
    section = Section(config, source)
    patch, side = section.integer("patch_size", 16, 1, 256), section.integer("image_size", 640, 1, 2**16)
    expected, doublings = upscalings(patch), section.get("num_upscale_blocks", 2)
    if doublings != expected:
        raise UserError(
            f"{source}: num_upscale_blocks: expected {expected} for patches of {patch}, got {shown(doublings)}"
        )
    if side % patch:
        raise UserError(f"{source}: image_size: expected a multiple of patch_size {patch}, got {side}")
    return {"MODEL.MASK_FORMER.SIZE_DIVISIBILITY": side, "TEST.SLIDING.SIZE": [side, side]}


def write_common(cfg: CfgNode) -> dict[str, Any]:
    """Return the settings that follow from others, after checking that all sizes are in our config."""
    for setting in SIZES[:5]:
        if not value_of(cfg, setting.key):
            raise UserError(f"{setting.key}: 0 cannot be written; set it to the number of {cfg.MODEL.VIT.NAME}")
    return {"num_upscale_blocks": upscalings(cfg.MODEL.VIT.PATCH_SIZE)}


def read_dinov2(config: dict[str, Any], source: str) -> dict[str, Any]:
    """Return the values of a DINOv2 that no single setting determines."""
    swiglu = Section(config, source).flag("use_swiglu_ffn", False)
    return {NAME_KEY: f"vit_{'giant' if swiglu else 'large'}_patch14_reg4_dinov2", **read_common(config, source)}


def write_dinov2(cfg: CfgNode) -> dict[str, Any]:
    """Return the settings of a DINOv2 that no single key determines."""
    match = DINOV2.fullmatch(cfg.MODEL.VIT.NAME)
    if match is None:
        expected = "a DINOv2 with registers (vit_*_patch14_reg4_dinov2) or a DINOv3 of timm"
        raise UserError(f"{NAME_KEY}: transformers' EoMT needs {expected}, got {cfg.MODEL.VIT.NAME!r}")
    return {"use_swiglu_ffn": match[1] == "giant", **write_common(cfg)}


def read_dinov3(config: dict[str, Any], source: str) -> dict[str, Any]:
    """Return the values of a DINOv3 that no single setting determines."""
    section = Section(config, source)
    query, value = section.flag("query_bias", True), section.flag("value_bias", True)
    if query != value:
        raise UserError(f"{source}: value_bias: expected {query} as query_bias, got {value}")
    width, hidden = section.integer("hidden_size", 1024, 1, 2**14), section.get("intermediate_size", 4096)
    if hidden != 4 * width:
        raise UserError(f"{source}: intermediate_size: expected 4 times hidden_size, {4 * width}, got {shown(hidden)}")
    return {NAME_KEY: DINOV3_NAMES[query], **read_common(config, source)}


def write_dinov3(cfg: CfgNode) -> dict[str, Any]:
    """Return the settings of a DINOv3 that no single key determines."""
    match = DINOV3.fullmatch(cfg.MODEL.VIT.NAME)
    if match is None:
        raise UserError(f"{NAME_KEY}: expected a DINOv3 of timm without gated MLPs, got {cfg.MODEL.VIT.NAME}")
    common = write_common(cfg)
    biased = match[2] is not None
    return {
        "query_bias": biased,
        "value_bias": biased,
        "intermediate_size": 4 * cfg.MODEL.VIT.EMBED_DIM,
        **common,
    }


DINOV2_BACKBONE = TransformersBackbone(
    "backbones/eomt_dinov2_vit_l.yaml", SIZES, FIXED | {"mlp_ratio": 4}, REQUIRED, read_dinov2, write_dinov2
)
DINOV3_BACKBONE = TransformersBackbone(
    "backbones/eomt_dinov3_vit_l.yaml",
    SIZES,
    {
        **FIXED,
        "key_bias": False,
        "proj_bias": True,
        "mlp_bias": True,
        "use_gated_mlp": False,
        "rope_parameters.rope_theta": 100.0,
        "rope_parameters.rope_type": "default",
    },
    REQUIRED,
    read_dinov3,
    write_dinov3,
)
