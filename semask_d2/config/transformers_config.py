"""transformers' settings of Mask2Former and MaskFormer on Swin beside our config keys, read in both directions."""

from __future__ import annotations

from typing import Any, NamedTuple

from semask_d2.d2 import CfgNode
from semask_d2.utils.arguments import value_of
from semask_d2.utils.errors import UserError


class Setting(NamedTuple):
    """A setting of theirs, its key here, and the value that a file without it means."""

    theirs: str
    ours: str
    default: Any


class Family(NamedTuple):
    """A kind of model: what can be set, what must be as it is there (`fixed`) and here (`ours`)."""

    architecture: str
    recipe: str
    settings: tuple[Setting, ...]
    fixed: dict[str, Any]
    ours: dict[str, Any]


SWIN, HEAD, MASKS = "MODEL.SWIN", "MODEL.SEM_SEG_HEAD", "MODEL.MASK_FORMER"
STAGES = ["stage1", "stage2", "stage3", "stage4"]
SWIN_SETTINGS = tuple(
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
)
SWIN_FIXED = {
    "backbone_config.patch_size": 4,
    "backbone_config.hidden_act": "gelu",
    "backbone_config.use_absolute_embeddings": False,
    "backbone_config.layer_norm_eps": 1e-5,
    "backbone_config.out_features": STAGES,
}
OUR_SWIN = {
    "MODEL.BACKBONE.NAME": "D2SeMaskSwinTransformer",
    f"{SWIN}.NUM_SEM_BLOCKS": 0,
    f"{SWIN}.PATCH_SIZE": 4,
    f"{SWIN}.APE": False,
    f"{SWIN}.PATCH_NORM": True,
    f"{SWIN}.QK_SCALE": None,
    f"{HEAD}.NORM": "GN",
    f"{HEAD}.IN_FEATURES": ["res2", "res3", "res4", "res5"],
}
FAMILIES = {
    "mask2former": Family(
        "Mask2FormerForUniversalSegmentation",
        "recipes/m2f.yaml",
        (
            *SWIN_SETTINGS,
            Setting("feature_size", f"{HEAD}.CONVS_DIM", 256),
            Setting("mask_feature_size", f"{HEAD}.MASK_DIM", 256),
            Setting("encoder_layers", f"{HEAD}.TRANSFORMER_ENC_LAYERS", 6),
            Setting("common_stride", f"{HEAD}.COMMON_STRIDE", 4),
            Setting("hidden_dim", f"{MASKS}.HIDDEN_DIM", 256),
            Setting("num_attention_heads", f"{MASKS}.NHEADS", 8),
            Setting("dim_feedforward", f"{MASKS}.DIM_FEEDFORWARD", 2048),
            Setting("decoder_layers", f"{MASKS}.DEC_LAYERS", 10),
            Setting("num_queries", f"{MASKS}.NUM_OBJECT_QUERIES", 100),
            Setting("dropout", f"{MASKS}.DROPOUT", 0.0),
            Setting("enforce_input_projection", f"{MASKS}.ENFORCE_INPUT_PROJ", False),
            Setting("class_weight", f"{MASKS}.CLASS_WEIGHT", 2.0),
            Setting("mask_weight", f"{MASKS}.MASK_WEIGHT", 5.0),
            Setting("dice_weight", f"{MASKS}.DICE_WEIGHT", 5.0),
            Setting("no_object_weight", f"{MASKS}.NO_OBJECT_WEIGHT", 0.1),
            Setting("train_num_points", f"{MASKS}.TRAIN_NUM_POINTS", 12544),
            Setting("oversample_ratio", f"{MASKS}.OVERSAMPLE_RATIO", 3.0),
            Setting("importance_sample_ratio", f"{MASKS}.IMPORTANCE_SAMPLE_RATIO", 0.75),
        ),
        {
            **SWIN_FIXED,
            "pre_norm": False,
            "activation_function": "relu",
            "encoder_feedforward_dim": 1024,
            "feature_strides": [4, 8, 16, 32],
        },
        {
            **OUR_SWIN,
            f"{HEAD}.PIXEL_DECODER_NAME": "MSDeformAttnPixelDecoder",
            f"{HEAD}.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES": ["res3", "res4", "res5"],
            f"{HEAD}.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS": 4,
            f"{MASKS}.TRANSFORMER_DECODER_NAME": "MultiScaleMaskedTransformerDecoder",
        },
    ),
    "maskformer": Family(
        "MaskFormerForInstanceSegmentation",
        "recipes/mf.yaml",
        (
            *SWIN_SETTINGS,
            Setting("fpn_feature_size", f"{HEAD}.CONVS_DIM", 256),
            Setting("mask_feature_size", f"{HEAD}.MASK_DIM", 256),
            Setting("decoder_config.d_model", f"{MASKS}.HIDDEN_DIM", 256),
            Setting("decoder_config.decoder_attention_heads", f"{MASKS}.NHEADS", 8),
            Setting("decoder_config.decoder_ffn_dim", f"{MASKS}.DIM_FEEDFORWARD", 2048),
            Setting("decoder_config.decoder_layers", f"{MASKS}.DEC_LAYERS", 6),
            Setting("decoder_config.num_queries", f"{MASKS}.NUM_OBJECT_QUERIES", 100),
            Setting("decoder_config.dropout", f"{MASKS}.DROPOUT", 0.1),
            Setting("cross_entropy_weight", f"{MASKS}.CLASS_WEIGHT", 1.0),
            Setting("mask_weight", f"{MASKS}.MASK_WEIGHT", 20.0),
            Setting("dice_weight", f"{MASKS}.DICE_WEIGHT", 1.0),
            Setting("no_object_weight", f"{MASKS}.NO_OBJECT_WEIGHT", 0.1),
        ),
        {**SWIN_FIXED, "decoder_config.model_type": "detr", "decoder_config.activation_function": "relu"},
        {
            **OUR_SWIN,
            f"{HEAD}.PIXEL_DECODER_NAME": "BasePixelDecoder",
            f"{MASKS}.TRANSFORMER_DECODER_NAME": "StandardTransformerDecoder",
            f"{MASKS}.TRANSFORMER_IN_FEATURE": "res5",
        },
    ),
}
# how the backbone is called: transformers has two Swins, of which MaskFormer's writes the second
BACKBONES = {"mask2former": ("swin",), "maskformer": ("maskformer-swin", "swin")}
OFFSET = 255  # pixels there are in 0..1, here in 0..255


def values_from_transformers(config: dict[str, Any], processor: dict[str, Any], source: str) -> dict[str, Any]:
    """Our config's values, by dotted key, for the model of a `config.json`, and of a `preprocessor_config.json` or {}.

    Raises `UserError`, naming `source` and the key, where it is a model that there is none of here.
    """
    family = family_of(config.get("model_type"), f"{source}: model_type")
    backbone = lookup(config, "backbone_config.model_type", None)
    known = BACKBONES[config["model_type"]]
    if backbone not in known:
        raise UserError(f"{source}: backbone_config.model_type: expected {' or '.join(known)}, got {backbone!r}")
    for key, wanted in family.fixed.items():
        found = lookup(config, key, wanted)
        if found != wanted:
            raise UserError(f"{source}: {key}: a model with {found!r} cannot be built here, only with {wanted!r}")
    values = {setting.ours: lookup(config, setting.theirs, setting.default) for setting in family.settings}
    values |= family.ours | {f"{HEAD}.NUM_CLASSES": len(class_names(config))}
    for name, key in (("image_mean", "MODEL.PIXEL_MEAN"), ("image_std", "MODEL.PIXEL_STD")):
        numbers = processor.get(name)
        if isinstance(numbers, list) and len(numbers) == 3 and all(isinstance(x, (int, float)) for x in numbers):
            values[key] = [OFFSET * x for x in numbers]
    return values


def config_for_transformers(cfg: CfgNode, names: list[str] | None = None) -> dict[str, Any]:
    """The `config.json` of a config's model, whose classes are called `names`, where they are known.

    Raises `UserError`, naming the key, for a model that transformers has not: with semantic layers, on another
    backbone, with another pixel decoder.
    """
    decoders = {"MultiScaleMaskedTransformerDecoder": "mask2former", "StandardTransformerDecoder": "maskformer"}
    name = decoders.get(cfg.MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME, "")
    family = family_of(name, f"{MASKS}.TRANSFORMER_DECODER_NAME {cfg.MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME}")
    for key, wanted in family.ours.items():
        found = value_of(cfg, key)
        if (list(found) if isinstance(found, tuple) else found) != wanted:
            raise UserError(f"{key}: transformers has no model with {found!r}, only with {wanted!r}")
    names = names or [f"LABEL_{i}" for i in range(cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)]
    config: dict[str, Any] = {
        "architectures": [family.architecture],
        "model_type": name,
        "id2label": {str(i): label for i, label in enumerate(names)},
        "label2id": {label: i for i, label in enumerate(names)},
        "backbone_config": {"model_type": BACKBONES[name][0]},
    }
    for key, value in family.fixed.items():
        put(config, key, value)
    for setting in family.settings:
        value = value_of(cfg, setting.ours)
        put(config, setting.theirs, list(value) if isinstance(value, tuple) else value)
    return config


def processor_for_transformers(cfg: CfgNode) -> dict[str, Any]:
    """The `preprocessor_config.json` of a config's model."""
    kind = "Mask2Former" if "Multi" in cfg.MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME else "MaskFormer"
    return {
        "image_processor_type": f"{kind}ImageProcessor",
        "image_mean": [x / OFFSET for x in cfg.MODEL.PIXEL_MEAN],
        "image_std": [x / OFFSET for x in cfg.MODEL.PIXEL_STD],
        "size": {"shortest_edge": cfg.INPUT.MIN_SIZE_TEST, "longest_edge": cfg.INPUT.MAX_SIZE_TEST},
        "size_divisor": 32,
        "ignore_index": cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
    }


def class_names(config: dict[str, Any]) -> list[str]:
    """The names of a `config.json`'s classes in the order of their ids; two nameless ones where it has none."""
    labels = config.get("id2label")
    if not isinstance(labels, dict) or not all(str(key).isdigit() for key in labels):
        return ["LABEL_0", "LABEL_1"]
    return [str(label) for _, label in sorted(labels.items(), key=lambda item: int(item[0]))]


def family_of(name: Any, what: str) -> Family:
    """The family of transformers' `model_type`; `UserError`, saying of `what`, where there is none."""
    if name not in FAMILIES:
        raise UserError(f"{what}: expected one of {', '.join(FAMILIES)}, got {name!r}")
    return FAMILIES[name]


def lookup(config: dict[str, Any], key: str, default: Any) -> Any:
    """The value of a dotted key of a config.json, `default` where it is not there."""
    value: Any = config
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            return default
        value = value[part]
    return value


def put(config: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key of a config.json."""
    *sections, leaf = key.split(".")
    for section in sections:
        config = config.setdefault(section, {})
    config[leaf] = value
