"""Conversion of Mask2Former and MaskFormer settings between transformers and the project's config keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from semask_d2.config.transformers_backbones import (
    RATE,
    RESNET_BACKBONE,
    SWIN_BACKBONE,
    Setting,
    TransformersBackbone,
    real,
    whole,
)
from semask_d2.config.transformers_eomt import DINOV2_BACKBONE, DINOV3_BACKBONE
from semask_d2.d2 import CfgNode
from semask_d2.utils.arguments import value_of
from semask_d2.utils.errors import UserError
from semask_d2.utils.foreign import Section, flag, integer, shown, text
from semask_d2.utils.nested import set_nested


class Family(NamedTuple):
    """Kind of model: its settings, and required values in config.json (`fixed`) and in our config (`required`).

    `backbones` are the possible backbones by their `model_type` in transformers; the first of each kind is written. A
    family with a single one has its settings at the top level of config.json, and names it ONLY.
    """

    architecture: str
    recipe: str
    settings: tuple[Setting, ...]
    fixed: dict[str, Any]
    required: dict[str, Any]
    backbones: dict[str, TransformersBackbone]


NAME, HEAD, MASKS = "MODEL.BACKBONE.NAME", "MODEL.SEM_SEG_HEAD", "MODEL.MASK_FORMER"
WIDTH, LAYERS, QUERIES, WEIGHT = whole(1, 2**13), whole(1, 100), whole(1, 10_000), real(0, 1e6)
MAX_CLASSES = 100_000
ONLY, ENCODER_ONLY = "", "EncoderOnlyMaskHead"
LOSSES = (
    Setting("class_weight", f"{MASKS}.CLASS_WEIGHT", 2.0, WEIGHT),
    Setting("mask_weight", f"{MASKS}.MASK_WEIGHT", 5.0, WEIGHT),
    Setting("dice_weight", f"{MASKS}.DICE_WEIGHT", 5.0, WEIGHT),
    Setting("no_object_weight", f"{MASKS}.NO_OBJECT_WEIGHT", 0.1, WEIGHT),
    Setting("train_num_points", f"{MASKS}.TRAIN_NUM_POINTS", 12544, whole(1, 2**24)),
    Setting("oversample_ratio", f"{MASKS}.OVERSAMPLE_RATIO", 3.0, real(1, 1000)),
    Setting("importance_sample_ratio", f"{MASKS}.IMPORTANCE_SAMPLE_RATIO", 0.75, RATE),
)
HEAD_VALUES = {
    "INPUT.CHANNELS": 3,
    f"{HEAD}.NORM": "GN",
    f"{HEAD}.IN_FEATURES": ["res2", "res3", "res4", "res5"],
}
FAMILIES = {
    "mask2former": Family(
        "Mask2FormerForUniversalSegmentation",
        "recipes/m2f_ade20k_512.yaml",
        (
            Setting("feature_size", f"{HEAD}.CONVS_DIM", 256, WIDTH),
            Setting("mask_feature_size", f"{HEAD}.MASK_DIM", 256, WIDTH),
            Setting("encoder_layers", f"{HEAD}.TRANSFORMER_ENC_LAYERS", 6, LAYERS),
            Setting("common_stride", f"{HEAD}.COMMON_STRIDE", 4, whole(4, 32)),
            Setting("hidden_dim", f"{MASKS}.HIDDEN_DIM", 256, WIDTH),
            Setting("num_attention_heads", f"{MASKS}.NHEADS", 8, whole(1, 256)),
            Setting("dim_feedforward", f"{MASKS}.DIM_FEEDFORWARD", 2048, whole(1, 2**16)),
            Setting("decoder_layers", f"{MASKS}.DEC_LAYERS", 10, LAYERS),
            Setting("num_queries", f"{MASKS}.NUM_OBJECT_QUERIES", 100, QUERIES),
            Setting("dropout", f"{MASKS}.DROPOUT", 0.0, RATE),
            Setting("enforce_input_projection", f"{MASKS}.ENFORCE_INPUT_PROJ", False, flag),
            *LOSSES,
        ),
        {
            "pre_norm": False,
            "activation_function": "relu",
            "encoder_feedforward_dim": 1024,
            "feature_strides": [4, 8, 16, 32],
        },
        {
            **HEAD_VALUES,
            f"{HEAD}.PIXEL_DECODER_NAME": "MSDeformAttnPixelDecoder",
            f"{HEAD}.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES": ["res3", "res4", "res5"],
            f"{HEAD}.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS": 4,
            f"{MASKS}.TRANSFORMER_DECODER_NAME": "MultiScaleMaskedTransformerDecoder",
        },
        {"swin": SWIN_BACKBONE, "resnet": RESNET_BACKBONE},
    ),
    "maskformer": Family(
        "MaskFormerForInstanceSegmentation",
        "recipes/mf_ade20k_512.yaml",
        (
            Setting("fpn_feature_size", f"{HEAD}.CONVS_DIM", 256, WIDTH),
            Setting("mask_feature_size", f"{HEAD}.MASK_DIM", 256, WIDTH),
            Setting("decoder_config.d_model", f"{MASKS}.HIDDEN_DIM", 256, WIDTH),
            Setting("decoder_config.decoder_attention_heads", f"{MASKS}.NHEADS", 8, whole(1, 256)),
            Setting("decoder_config.decoder_ffn_dim", f"{MASKS}.DIM_FEEDFORWARD", 2048, whole(1, 2**16)),
            Setting("decoder_config.decoder_layers", f"{MASKS}.DEC_LAYERS", 6, LAYERS),
            Setting("decoder_config.num_queries", f"{MASKS}.NUM_OBJECT_QUERIES", 100, QUERIES),
            Setting("decoder_config.dropout", f"{MASKS}.DROPOUT", 0.1, RATE),
            Setting("cross_entropy_weight", f"{MASKS}.CLASS_WEIGHT", 1.0, WEIGHT),
            Setting("mask_weight", f"{MASKS}.MASK_WEIGHT", 20.0, WEIGHT),
            Setting("dice_weight", f"{MASKS}.DICE_WEIGHT", 1.0, WEIGHT),
            Setting("no_object_weight", f"{MASKS}.NO_OBJECT_WEIGHT", 0.1, WEIGHT),
        ),
        {"decoder_config.model_type": "detr", "decoder_config.activation_function": "relu"},
        {
            **HEAD_VALUES,
            f"{HEAD}.PIXEL_DECODER_NAME": "BasePixelDecoder",
            f"{MASKS}.TRANSFORMER_DECODER_NAME": "StandardTransformerDecoder",
            f"{MASKS}.TRANSFORMER_IN_FEATURE": "res5",
        },
        # transformers has two Swin implementations
        {"maskformer-swin": SWIN_BACKBONE, "swin": SWIN_BACKBONE, "resnet": RESNET_BACKBONE},
    ),
    **{
        name: Family(
            architecture,
            "recipes/eomt_ade20k_512.yaml",
            (Setting("num_queries", f"{MASKS}.NUM_OBJECT_QUERIES", 200, QUERIES), *LOSSES),
            {},
            {f"{HEAD}.NAME": ENCODER_ONLY},
            {ONLY: backbone},
        )
        for name, architecture, backbone in (
            ("eomt", "EomtForUniversalSegmentation", DINOV2_BACKBONE),
            ("eomt_dinov3", "EomtDinov3ForUniversalSegmentation", DINOV3_BACKBONE),
        )
    },
}
PROCESSORS = {"mask2former": "Mask2Former", "maskformer": "MaskFormer", "eomt": "Eomt", "eomt_dinov3": "Eomt"}
PIXEL_SCALE = 255  # transformers has pixels in 0..1, this project in 0..255
PIXELS = {"image_mean": ("MODEL.PIXEL_MEAN", real(-1000, 1000)), "image_std": ("MODEL.PIXEL_STD", real(1e-6, 1000))}
# sizes of resized images: in `size`, or in older files at the top level
SIDES = {"shortest_edge": ("INPUT.MIN_SIZE_TEST", "size"), "longest_edge": ("INPUT.MAX_SIZE_TEST", "max_size")}
SIDE = whole(0, 2**31)


def values_from_transformers(
    config: dict[str, Any], processor: dict[str, Any], source: str, processor_source: str = "preprocessor_config.json"
) -> dict[str, Any]:
    """Return values by our config keys for a `config.json`, and for a `preprocessor_config.json` or {}.

    Raises `UserError`, naming `source` (or `processor_source`) and the key, for an unsupported model and for a value of
    the wrong type or out of range.
    """
    settings = Section(config, source)
    family = family_of(config.get("model_type"), f"{source}: model_type")
    backbone = backbone_kind(config, source)
    for key, needed in (backbone.fixed | family.fixed).items():
        value = setting_at(settings, key, needed)
        if value != needed:
            raise UserError(f"{source}: {key}: {shown(value)} is not supported, only {needed!r}")
    values = {
        setting.key: setting.read(setting_at(settings, setting.name, setting.default), f"{source}: {setting.name}")
        for setting in (*backbone.settings, *family.settings)
    }
    values |= backbone.read(config, source)
    values |= backbone.required | family.required | {f"{HEAD}.NUM_CLASSES": len(names_by_id(config, source))}
    return values | values_from_processor(Section(processor, processor_source))


def values_from_processor(processor: Section, *, sizes: bool = True) -> dict[str, Any]:
    """Return values by our config keys for a `preprocessor_config.json`, with the `sizes` of resized images or not."""
    values: dict[str, Any] = {}
    for name, (key, read) in PIXELS.items():
        numbers = processor.entries(name, None, 3)
        if numbers is not None:
            values[key] = [PIXEL_SCALE * read(x, f"{processor.source}: {name}") for x in numbers]
    if not sizes:
        return values
    size = processor.get("size", {})
    nested = Section(size if isinstance(size, dict) else {}, processor.source)
    for name, (key, older) in SIDES.items():
        side, place = nested.get(name, None), f"size.{name}"
        if side is None and not isinstance(beside := processor.get(older, None), dict):
            side, place = beside, older
        if side is not None:
            values[key] = SIDE(side, f"{processor.source}: {place}")
    windows = processor.get("do_split_image", None)
    if windows is not None:
        values["TEST.SLIDING.ENABLED"] = flag(windows, f"{processor.source}: do_split_image")
    return values


def backbone_kind(config: dict[str, Any], source: str) -> TransformersBackbone:
    """Return the kind of backbone in a `config.json`; `UserError`, naming `source`, if it is unknown."""
    known = family_of(config.get("model_type"), f"{source}: model_type").backbones
    if ONLY in known:
        return known[ONLY]
    name = setting_at(Section(config, source), "backbone_config.model_type", None)
    if not isinstance(name, str) or name not in known:
        raise UserError(f"{source}: backbone_config.model_type: expected {' or '.join(known)}, got {shown(name)}")
    return known[name]


def config_for_transformers(cfg: CfgNode, names: Sequence[str] | None = None) -> dict[str, Any]:
    """Return the `config.json` of a config's model with the class names `names`, if they are known.

    Raises `UserError`, naming the key, for a model that transformers does not support: with semantic layers, with a
    backbone other than Swin and ResNet, or with another pixel decoder.
    """
    name = family_name(cfg)
    family = family_of(name, f"{MASKS}.TRANSFORMER_DECODER_NAME {cfg.MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME}")
    backbones = {kind.required[NAME]: (name, kind) for name, kind in reversed(family.backbones.items())}
    if cfg.MODEL.BACKBONE.NAME not in backbones:
        known = " and ".join(backbones)
        raise UserError(f"{NAME}: transformers does not support {cfg.MODEL.BACKBONE.NAME!r}, only {known}")
    backbone_name, backbone = backbones[cfg.MODEL.BACKBONE.NAME]
    for key, expected in (backbone.required | family.required).items():
        value = value_of(cfg, key)
        if (list(value) if isinstance(value, tuple) else value) != expected:
            raise UserError(f"{key}: transformers does not support {value!r}, only {expected!r}")
    names = names or [f"LABEL_{i}" for i in range(cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)]
    config: dict[str, Any] = {
        "architectures": [family.architecture],
        "model_type": name,
        "id2label": {str(i): label for i, label in enumerate(names)},
        "label2id": {label: i for i, label in enumerate(names)},
    }
    if backbone_name != ONLY:
        config["backbone_config"] = {"model_type": backbone_name}
    for key, value in (backbone.fixed | family.fixed | backbone.write(cfg)).items():
        set_nested(config, key, value)
    for setting in (*backbone.settings, *family.settings):
        value = value_of(cfg, setting.key)
        set_nested(config, setting.name, list(value) if isinstance(value, tuple) else value)
    return config


def processor_for_transformers(cfg: CfgNode) -> dict[str, Any]:
    """Return the `preprocessor_config.json` of a config's model."""
    kind = PROCESSORS[family_name(cfg)]
    windows = {"do_split_image": cfg.TEST.SLIDING.ENABLED, "do_pad": not cfg.TEST.SLIDING.ENABLED}
    return {
        "image_processor_type": f"{kind}ImageProcessor",
        **(windows if kind == "Eomt" else {}),
        "image_mean": [x / PIXEL_SCALE for x in cfg.MODEL.PIXEL_MEAN],
        "image_std": [x / PIXEL_SCALE for x in cfg.MODEL.PIXEL_STD],
        "size": {"shortest_edge": cfg.INPUT.MIN_SIZE_TEST, "longest_edge": cfg.INPUT.MAX_SIZE_TEST},
        "size_divisor": 32,
        "ignore_index": cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
    }


def family_name(cfg: CfgNode) -> str:
    """Return the `model_type` of a config's model in transformers, "" if there is none."""
    if cfg.MODEL.SEM_SEG_HEAD.NAME == ENCODER_ONLY:
        return "eomt_dinov3" if "dinov3" in cfg.MODEL.VIT.NAME else "eomt"
    decoders = {"MultiScaleMaskedTransformerDecoder": "mask2former", "StandardTransformerDecoder": "maskformer"}
    return decoders.get(cfg.MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME, "")


def names_by_id(config: dict[str, Any], source: str = "config.json") -> list[str]:
    """Return the class names in a `config.json` in the order of their ids; LABEL_0 and LABEL_1 if it has none.

    Raises `UserError`, naming `source`, unless they are names by id.
    """
    labels = Section(config, source).section("id2label", None)
    if labels is None:
        return ["LABEL_0", "LABEL_1"]
    source = labels.source
    integer(len(labels.values), f"{source}: number of classes", 1, MAX_CLASSES)
    names: dict[int, str] = {}
    for key, label in ((str(key), label) for key, label in labels.values.items()):  # from Python, ids may be int
        if not (key.isascii() and key.isdecimal() and len(key) < 10) or int(key) in names:
            raise UserError(f"{source}: expected class ids such as '0', each once, got {shown(key)}")
        names[int(key)] = str(label) if type(label) is int else text(label, f"{source}.{key}")
    return [name for _, name in sorted(names.items())]


def family_of(name: Any, what: str) -> Family:
    """Return the family of a transformers `model_type`; `UserError`, naming `what`, if it is unknown."""
    if not isinstance(name, str) or name not in FAMILIES:
        raise UserError(f"{what}: expected one of {', '.join(FAMILIES)}, got {shown(name)}")
    return FAMILIES[name]


def setting_at(section: Section, key: str, default: Any) -> Any:
    """Return the value of a dotted key of a config.json; `default` if the key or a section is missing or null."""
    *names, leaf = key.split(".")
    for name in names:
        nested = section.section(name, None)
        if nested is None:
            return default
        section = nested
    return section.get(leaf, default)
