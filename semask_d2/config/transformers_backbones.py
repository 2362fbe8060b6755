"""Conversion of Swin and ResNet settings between transformers and the project's config keys."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from semask_d2.d2 import CfgNode
from semask_d2.modeling.backbones.resnet import BASIC, BLOCKS
from semask_d2.utils.errors import UserError
from semask_d2.utils.foreign import entries, flag, integer, number, shown

Reader = Callable[[Any, str], Any]


def whole(low: int, high: int) -> Reader:
    """Return the reader of an integer from `low` to `high`."""
    return partial(integer, low=low, high=high)


def real(low: float, high: float) -> Reader:
    """Return the reader of a number from `low` to `high`."""
    return partial(number, low=low, high=high)


def whole_numbers(length: int, low: int, high: int) -> Reader:
    """Return the reader of a list of `length` integers from `low` to `high`."""
    return lambda value, source: [integer(x, source, low, high) for x in entries(value, source, length)]


RATE = real(0, 1)


class Setting(NamedTuple):
    """Setting in a config.json: its name there, our config key, transformers' default, and a reader that checks values.

    Files of transformers omit values equal to its defaults, which may differ from ours.
    """

    name: str
    key: str
    default: Any
    read: Reader


class TransformersBackbone(NamedTuple):
    """Kind of backbone: our config file, its settings, and required values in config.json (`fixed`) and in our config.

    `read` returns values by our keys that no single setting determines, from a config.json and its name; `write` is the
    reverse, from our config. Both raise `UserError` for values that the other side does not support.
    """

    file: str
    settings: tuple[Setting, ...]
    fixed: dict[str, Any]
    required: dict[str, Any]
    read: Callable[[dict[str, Any], str], dict[str, Any]] = lambda config, source: {}
    write: Callable[[CfgNode], dict[str, Any]] = lambda cfg: {}


SWIN, RESNETS = "MODEL.SWIN", "MODEL.RESNETS"
STAGES = ["stage1", "stage2", "stage3", "stage4"]
SWIN_BACKBONE = TransformersBackbone(
    "backbones/swin_t.yaml",
    tuple(
        Setting(f"backbone_config.{name}", f"{SWIN}.{key}", default, read)
        for name, key, default, read in (
            ("embed_dim", "EMBED_DIM", 96, whole(1, 1024)),
            ("depths", "DEPTHS", [2, 2, 6, 2], whole_numbers(4, 1, 100)),
            ("num_heads", "NUM_HEADS", [3, 6, 12, 24], whole_numbers(4, 1, 256)),
            ("window_size", "WINDOW_SIZE", 7, whole(1, 64)),
            ("mlp_ratio", "MLP_RATIO", 4.0, real(0.01, 64)),
            ("qkv_bias", "QKV_BIAS", True, flag),
            ("image_size", "PRETRAIN_IMG_SIZE", 224, whole(1, 2**16)),
            ("drop_path_rate", "DROP_PATH_RATE", 0.1, RATE),
            ("hidden_dropout_prob", "DROP_RATE", 0.0, RATE),
            ("attention_probs_dropout_prob", "ATTN_DROP_RATE", 0.0, RATE),
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
BATCH_NORMS = ("FrozenBN", "BN", "SyncBN")  # equivalent in evaluation
MAX_WIDTH = 2**14  # of the first stage of a ResNet
REDUCTION = 4  # of channels within bottlenecks


def read_resnet(config: dict[str, Any], source: str) -> dict[str, Any]:
    """Return depth and widths of a ResNet by our keys, from a config.json."""
    backbone = config["backbone_config"]
    blocks, kind = backbone.get("depths", [3, 4, 6, 3]), backbone.get("layer_type", "bottleneck")
    depth = next((n for n in BLOCKS if list(BLOCKS[n]) == blocks and (n in BASIC) == (kind == "basic")), None)
    if depth is None:
        known = ", ".join(map(str, BLOCKS))
        raise UserError(
            f"{source}: backbone_config.depths: expected those of a ResNet of depth {known}, got "
            f"{shown(blocks)} blocks of layer_type {shown(kind)}"
        )
    sizes = entries(backbone.get("hidden_sizes", [256, 512, 1024, 2048]), f"{source}: backbone_config.hidden_sizes", 4)
    first = integer(sizes[0], f"{source}: backbone_config.hidden_sizes", REDUCTION, MAX_WIDTH)
    if sizes != [first * 2**i for i in range(4)]:
        raise UserError(
            f"{source}: backbone_config.hidden_sizes: expected four widths, each twice the one before, got "
            f"{shown(sizes)}"
        )
    width = 64 if depth in BASIC else first // REDUCTION
    return {f"{RESNETS}.DEPTH": depth, f"{RESNETS}.RES2_OUT_CHANNELS": first, f"{RESNETS}.WIDTH_PER_GROUP": width}


def write_resnet(cfg: CfgNode) -> dict[str, Any]:
    """Return depth and widths of a ResNet for a config.json, from our config."""
    resnets = cfg.MODEL.RESNETS
    if resnets.DEPTH not in BLOCKS:
        raise UserError(f"{RESNETS}.DEPTH: expected one of {list(BLOCKS)}, got {resnets.DEPTH}")
    first, basic = resnets.RES2_OUT_CHANNELS, resnets.DEPTH in BASIC
    if resnets.NORM not in BATCH_NORMS:
        raise UserError(f"{RESNETS}.NORM: transformers does not support {resnets.NORM!r}, only BatchNorm")
    if not basic and first // REDUCTION != resnets.WIDTH_PER_GROUP:
        raise UserError(
            f"{RESNETS}.WIDTH_PER_GROUP: transformers does not support {resnets.WIDTH_PER_GROUP}, only a quarter "
            f"of RES2_OUT_CHANNELS {first}"
        )
    return {
        "backbone_config.depths": list(BLOCKS[resnets.DEPTH]),
        "backbone_config.layer_type": "basic" if basic else "bottleneck",
        "backbone_config.hidden_sizes": [first * 2**i for i in range(4)],
    }


RESNET_BACKBONE = TransformersBackbone(
    "backbones/r50.yaml",
    (
        Setting("backbone_config.embedding_size", f"{RESNETS}.STEM_OUT_CHANNELS", 64, whole(1, MAX_WIDTH)),
        Setting("backbone_config.downsample_in_bottleneck", f"{RESNETS}.STRIDE_IN_1X1", False, flag),
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
    read_resnet,
    write_resnet,
)
