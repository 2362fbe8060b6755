"""transformers' settings of Mask2Former and MaskFormer beside our config keys, read in both directions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from semask_d2.config.transformers_backbones import (
    RATE,
    RESNET_BACKBONE,
    SWIN_BACKBONE,
    Setting,
    TheirBackbone,
    real,
    whole,
)
from semask_d2.d2 import CfgNode
from semask_d2.utils.arguments import value_of
from semask_d2.utils.errors import UserError
from semask_d2.utils.foreign import Section, flag, integer, shown, text


class Family(NamedTuple):
    """A kind of model: what can be set but its backbone, what must be as it is there (`fixed`) and here (`ours`).

    `backbones` are those it can have, by transformers' `model_type` of them, of which the first of a kind is written.
    """

    architecture: str
    recipe: str
    settings: tuple[Setting, ...]
    fixed: dict[str, Any]
    ours: dict[str, Any]
    backbones: dict[str, TheirBackbone]


NAME, HEAD, MASKS = "MODEL.BACKBONE.NAME", "MODEL.SEM_SEG_HEAD", "MODEL.MASK_FORMER"
WIDTH, LAYERS, QUERIES, WEIGHT = whole(1, 2**13), whole(1, 100), whole(1, 10_000), real(0, 1e6)
MAX_CLASSES = 100_000
OUR_HEAD = {f"{HEAD}.NORM": "GN", f"{HEAD}.IN_FEATURES": ["res2", "res3", "res4", "res5"]}
FAMILIES = {
    "mask2former": Family(
        "Mask2FormerForUniversalSegmentation",
        "recipes/m2f.yaml",
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
            Setting("class_weight", f"{MASKS}.CLASS_WEIGHT", 2.0, WEIGHT),
            Setting("mask_weight", f"{MASKS}.MASK_WEIGHT", 5.0, WEIGHT),
            Setting("dice_weight", f"{MASKS}.DICE_WEIGHT", 5.0, WEIGHT),
            Setting("no_object_weight", f"{MASKS}.NO_OBJECT_WEIGHT", 0.1, WEIGHT),
            Setting("train_num_points", f"{MASKS}.TRAIN_NUM_POINTS", 12544, whole(1, 2**24)),
            Setting("oversample_ratio", f"{MASKS}.OVERSAMPLE_RATIO", 3.0, real(1, 1000)),
            Setting("importance_sample_ratio", f"{MASKS}.IMPORTANCE_SAMPLE_RATIO", 0.75, RATE),
        ),
        {
            "pre_norm": False,
            "activation_function": "relu",
            "encoder_feedforward_dim": 1024,
            "feature_strides": [4, 8, 16, 32],
        },
        {
            **OUR_HEAD,
            f"{HEAD}.PIXEL_DECODER_NAME": "MSDeformAttnPixelDecoder",
            f"{HEAD}.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES": ["res3", "res4", "res5"],
            f"{HEAD}.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS": 4,
            f"{MASKS}.TRANSFORMER_DECODER_NAME": "MultiScaleMaskedTransformerDecoder",
        },
        {"swin": SWIN_BACKBONE, "resnet": RESNET_BACKBONE},
    ),
    "maskformer": Family(
        "MaskFormerForInstanceSegmentation",
        "recipes/mf.yaml",
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
            **OUR_HEAD,
            f"{HEAD}.PIXEL_DECODER_NAME": "BasePixelDecoder",
            f"{MASKS}.TRANSFORMER_DECODER_NAME": "StandardTransformerDecoder",
            f"{MASKS}.TRANSFORMER_IN_FEATURE": "res5",
        },
        # transformers has two Swins
        {"maskformer-swin": SWIN_BACKBONE, "swin": SWIN_BACKBONE, "resnet": RESNET_BACKBONE},
    ),
}
OFFSET = 255  # pixels there are in 0..1, here in 0..255
PIXELS = {"image_mean": ("MODEL.PIXEL_MEAN", real(-1000, 1000)), "image_std": ("MODEL.PIXEL_STD", real(1e-6, 1000))}
# how pictures are resized: in `size`, or in older files beside it
SIDES = {"shortest_edge": ("INPUT.MIN_SIZE_TEST", "size"), "longest_edge": ("INPUT.MAX_SIZE_TEST", "max_size")}
SIDE = whole(0, 2**31)


def values_from_transformers(
    config: dict[str, Any], processor: dict[str, Any], source: str, processor_source: str = "preprocessor_config.json"
) -> dict[str, Any]:
    """Our config's values, by dotted key, for the model of a `config.json`, and of a `preprocessor_config.json` or {}.

    Raises `UserError`, naming `source` and the key, where it is a model that there is none of here, and, as of the
    second file by `processor_source`, for a value of another type or beyond its range.
    """
    settings = Section(config, source)
    family = family_of(config.get("model_type"), f"{source}: model_type")
    backbone = their_backbone(config, source)
    for key, needed in (backbone.fixed | family.fixed).items():
        found = setting_at(settings, key, needed)
        if found != needed:
            raise UserError(f"{source}: {key}: a model with {shown(found)} cannot be built here, only with {needed!r}")
    values = {
        setting.ours: setting.read(setting_at(settings, setting.theirs, setting.default), f"{source}: {setting.theirs}")
        for setting in (*backbone.settings, *family.settings)
    }
    values |= backbone.to_ours(config, source)
    values |= backbone.ours | family.ours | {f"{HEAD}.NUM_CLASSES": len(names_by_id(config, source))}
    return values | values_from_processor(Section(processor, processor_source))


def values_from_processor(processor: Section) -> dict[str, Any]:
    """Our config's values, by dotted key, of a `preprocessor_config.json`."""
    values: dict[str, Any] = {}
    for name, (key, read) in PIXELS.items():
        numbers = processor.entries(name, None, 3)
        if numbers is not None:
            values[key] = [OFFSET * read(x, f"{processor.source}: {name}") for x in numbers]
    size = processor.get("size", {})
    nested = Section(size if isinstance(size, dict) else {}, processor.source)
    for name, (key, older) in SIDES.items():
        side, place = nested.get(name, None), f"size.{name}"
        if side is None and not isinstance(beside := processor.get(older, None), dict):
            side, place = beside, older
        if side is not None:
            values[key] = SIDE(side, f"{processor.source}: {place}")
    return values


def their_backbone(config: dict[str, Any], source: str) -> TheirBackbone:
    """The kind of backbone in the `config.json` of a known family; `UserError`, naming `source`, for any other."""
    known = family_of(config.get("model_type"), f"{source}: model_type").backbones
    name = setting_at(Section(config, source), "backbone_config.model_type", None)
    if not isinstance(name, str) or name not in known:
        raise UserError(f"{source}: backbone_config.model_type: expected {' or '.join(known)}, got {shown(name)}")
    return known[name]


def config_for_transformers(cfg: CfgNode, names: Sequence[str] | None = None) -> dict[str, Any]:
    """The `config.json` of a config's model, whose classes are called `names`, where they are known.

    Raises `UserError`, naming the key, for a model that transformers has not: with semantic layers, on a backbone other
    than Swin and ResNet, with another pixel decoder.
    """
    decoders = {"MultiScaleMaskedTransformerDecoder": "mask2former", "StandardTransformerDecoder": "maskformer"}
    name = decoders.get(cfg.MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME, "")
    family = family_of(name, f"{MASKS}.TRANSFORMER_DECODER_NAME {cfg.MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME}")
    backbones = {kind.ours[NAME]: (name, kind) for name, kind in reversed(family.backbones.items())}
    if cfg.MODEL.BACKBONE.NAME not in backbones:
        known = " and ".join(backbones)
        raise UserError(f"{NAME}: transformers has no model with {cfg.MODEL.BACKBONE.NAME!r}, only with {known}")
    backbone_name, backbone = backbones[cfg.MODEL.BACKBONE.NAME]
    for key, wanted in (backbone.ours | family.ours).items():
        found = value_of(cfg, key)
        if (list(found) if isinstance(found, tuple) else found) != wanted:
            raise UserError(f"{key}: transformers has no model with {found!r}, only with {wanted!r}")
    names = names or [f"LABEL_{i}" for i in range(cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)]
    config: dict[str, Any] = {
        "architectures": [family.architecture],
        "model_type": name,
        "id2label": {str(i): label for i, label in enumerate(names)},
        "label2id": {label: i for i, label in enumerate(names)},
        "backbone_config": {"model_type": backbone_name},
    }
    for key, value in (backbone.fixed | family.fixed | backbone.to_theirs(cfg)).items():
        put(config, key, value)
    for setting in (*backbone.settings, *family.settings):
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


def names_by_id(config: dict[str, Any], source: str = "config.json") -> list[str]:
    """The names of a `config.json`'s classes in the order of their ids; two nameless ones where it has none.

    Raises `UserError`, naming `source`, where they are no names by id.
    """
    labels = Section(config, source).section("id2label", None)
    if labels is None:
        return ["LABEL_0", "LABEL_1"]
    source = labels.source
    integer(len(labels.values), f"{source}: number of classes", 1, MAX_CLASSES)
    names: dict[int, str] = {}
    for key, label in ((str(key), label) for key, label in labels.values.items()):  # whose ids are numbers in Python
        if not (key.isascii() and key.isdecimal() and len(key) < 10) or int(key) in names:
            raise UserError(f"{source}: expected class ids such as '0', each once, got {shown(key)}")
        names[int(key)] = str(label) if type(label) is int else text(label, f"{source}.{key}")
    return [name for _, name in sorted(names.items())]


def family_of(name: Any, what: str) -> Family:
    """The family of transformers' `model_type`; `UserError`, saying of `what`, where there is none."""
    if not isinstance(name, str) or name not in FAMILIES:
        raise UserError(f"{what}: expected one of {', '.join(FAMILIES)}, got {shown(name)}")
    return FAMILIES[name]


def setting_at(section: Section, key: str, default: Any) -> Any:
    """The value of a dotted key of a config.json, `default` where it, or a section of it, is missing or null."""
    *names, leaf = key.split(".")
    for name in names:
        nested = section.section(name, None)
        if nested is None:
            return default
        section = nested
    return section.get(leaf, default)


def put(config: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key of a config.json."""
    *sections, leaf = key.split(".")
    for section in sections:
        config = config.setdefault(section, {})
    config[leaf] = value
