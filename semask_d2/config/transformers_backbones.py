"""transformers' settings of Swin and ResNet backbones beside our config keys, read in both directions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from semask_d2.d2 import CfgNode
from semask_d2.modeling.backbones.resnet import BASIC, BLOCKS
from semask_d2.utils.errors import UserError


class Setting(NamedTuple):
    """A setting of theirs, its key here, and the value that a file without it means."""

    theirs: str
    ours: str
    default: Any


class TheirBackbone(NamedTuple):
    """A kind of backbone: our config file of one, what can be set, what must be as it is there (`fixed`) and here.

    `to_ours` gives the values by our keys that are no plain settings, of a config.json and its name; `to_theirs` theirs
    of a config of ours. Both raise `UserError` for what the other side has not.
    """

    file: str
    settings: tuple[Setting, ...]
    fixed: dict[str, Any]
    ours: dict[str, Any]
    to_ours: Callable[[dict[str, Any], str], dict[str, Any]] = lambda config, source: {}
    to_theirs: Callable[[CfgNode], dict[str, Any]] = lambda cfg: {}


SWIN, RESNETS = "MODEL.SWIN", "MODEL.RESNETS"
STAGES = ["stage1", "stage2", "stage3", "stage4"]
SWIN_BACKBONE = TheirBackbone(
    "backbones/swin_t.yaml",
    tuple(
        Setting(f"backbone_config.{theirs}", f"{SWIN}.{ours}", default)
        for theirs, ours, default in (
            ("embed_dim", "EMBED_DIM", 96),
            ("depths", "DEPTHS", [2, 2, 6, 2]),
            ("num_heads", "NUM_HEADS", [3, 6, 12, 24]),
            ("window_size", "WINDOW_SIZE", 7),
            ("mlp_ratio", "MLP_RATIO", 4.0),
            ("qkv_bias", "QKV_BIAS", True),
            ("image_size", "PRETRAIN_IMG_SIZE", 224),
            ("drop_path_rate", "DROP_PATH_RATE", 0.1),
            ("hidden_dropout_prob", "DROP_RATE", 0.0),
            ("attention_probs_dropout_prob", "ATTN_DROP_RATE", 0.0),
        )
    ),
    {
        "backbone_config.patch_size": 4,
        "backbone_config.hidden_act": "gelu",
        "backbone_config.use_absolute_embeddings": False,
        "backbone_config.layer_norm_eps": 1e-5,
        "backbone_config.out_features": STAGES,
    },
    {
        "MODEL.BACKBONE.NAME": "D2SeMaskSwinTransformer",
        f"{SWIN}.NUM_SEM_BLOCKS": 0,
        f"{SWIN}.PATCH_SIZE": 4,
        f"{SWIN}.APE": False,
        f"{SWIN}.PATCH_NORM": True,
        f"{SWIN}.QK_SCALE": None,
    },
)
BATCH_NORMS = ("FrozenBN", "BN", "SyncBN")  # which are the same in evaluation
REDUCTION = 4  # of the channels within their bottlenecks


def resnet_to_ours(config: dict[str, Any], source: str) -> dict[str, Any]:
    """Depth and widths of their ResNet."""
    backbone = config["backbone_config"]
    blocks, kind = backbone.get("depths", [3, 4, 6, 3]), backbone.get("layer_type", "bottleneck")
    depth = next((n for n in BLOCKS if list(BLOCKS[n]) == blocks and (n in BASIC) == (kind == "basic")), None)
    if depth is None:
        known = ", ".join(map(str, BLOCKS))
        raise UserError(
            f"{source}: backbone_config.depths: expected those of a ResNet of depth {known}, got {blocks!r} blocks of "
            f"layer_type {kind!r}"
        )
    sizes = backbone.get("hidden_sizes", [256, 512, 1024, 2048])
    first = sizes[0] if isinstance(sizes, list) and sizes and type(sizes[0]) is int else 0
    if first < REDUCTION or sizes != [first * 2**i for i in range(4)]:
        raise UserError(
            f"{source}: backbone_config.hidden_sizes: expected four widths of which each is twice the one before, got "
            f"{sizes!r}"
        )
    width = 64 if depth in BASIC else first // REDUCTION
    return {f"{RESNETS}.DEPTH": depth, f"{RESNETS}.RES2_OUT_CHANNELS": first, f"{RESNETS}.WIDTH_PER_GROUP": width}


def resnet_to_theirs(cfg: CfgNode) -> dict[str, Any]:
    """Depth and widths of a ResNet of ours."""
    resnets = cfg.MODEL.RESNETS
    if resnets.DEPTH not in BLOCKS:
        raise UserError(f"{RESNETS}.DEPTH: expected one of {list(BLOCKS)}, got {resnets.DEPTH}")
    first, basic = resnets.RES2_OUT_CHANNELS, resnets.DEPTH in BASIC
    if resnets.NORM not in BATCH_NORMS:
        raise UserError(f"{RESNETS}.NORM: transformers has no model with {resnets.NORM!r}, only with BatchNorm")
    if not basic and first // REDUCTION != resnets.WIDTH_PER_GROUP:
        raise UserError(
            f"{RESNETS}.WIDTH_PER_GROUP: transformers has no model with {resnets.WIDTH_PER_GROUP}, only with a quarter "
            f"of RES2_OUT_CHANNELS {first}"
        )
    return {
        "backbone_config.depths": list(BLOCKS[resnets.DEPTH]),
        "backbone_config.layer_type": "basic" if basic else "bottleneck",
        "backbone_config.hidden_sizes": [first * 2**i for i in range(4)],
    }


RESNET_BACKBONE = TheirBackbone(
    "backbones/r50.yaml",
    (
        Setting("backbone_config.embedding_size", f"{RESNETS}.STEM_OUT_CHANNELS", 64),
        Setting("backbone_config.downsample_in_bottleneck", f"{RESNETS}.STRIDE_IN_1X1", False),
    ),
    {
        "backbone_config.num_channels": 3,
        "backbone_config.hidden_act": "relu",
        "backbone_config.downsample_in_first_stage": False,
        "backbone_config.out_features": STAGES,
    },
    {
        "MODEL.BACKBONE.NAME": "build_resnet_backbone",
        f"{RESNETS}.NUM_GROUPS": 1,
        f"{RESNETS}.RES5_DILATION": 1,
        f"{RESNETS}.DEFORM_ON_PER_STAGE": [False] * 4,
        f"{RESNETS}.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    },
    resnet_to_ours,
    resnet_to_theirs,
)
