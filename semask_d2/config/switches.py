"""Settings that another setting switches off: a line tells a user whose setting has no effect."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import NamedTuple

from semask_d2.d2 import CfgNode
from semask_d2.utils.arguments import value_of

logger = logging.getLogger(__name__)


class Switch(NamedTuple):
    """Keys under `section` that have an effect only if `is_on`; `key` is the setting that decides."""

    section: str
    keys: tuple[str, ...]
    is_on: Callable[[CfgNode], bool]
    key: str


def flag(section: str, *keys: str, switch: str = "ENABLED") -> Switch:
    """Return the switch of `keys` by a flag or number in their own section."""
    return Switch(section, keys, lambda cfg: bool(value_of(cfg, f"{section}.{switch}")), f"{section}.{switch}")


def choice(key: str, *values: str, section: str, keys: tuple[str, ...]) -> Switch:
    """Return the switch of keys that only one of some values of `key` reads."""
    return Switch(section, keys, lambda cfg: value_of(cfg, key) in values, key)


def crop_size_is_read(cfg: CfgNode) -> bool:
    """Return whether crops are on, or sliding windows that take their size from INPUT.CROP.SIZE."""
    return cfg.INPUT.CROP.ENABLED or (cfg.TEST.SLIDING.ENABLED and not any(cfg.TEST.SLIDING.SIZE))


SWITCHES = (
    Switch("INPUT.CROP", ("SIZE",), crop_size_is_read, "INPUT.CROP.ENABLED"),
    flag("INPUT.CROP", "TYPE", "SINGLE_CATEGORY_MAX_AREA"),
    flag("TEST.AUG", "MIN_SIZES", "MAX_SIZE", "FLIP"),
    flag("TEST.SLIDING", "SIZE", "OVERLAP", "BLENDING"),
    flag("SOLVER.EMA", "DECAY"),
    flag("SOLVER.EARLY_STOPPING", "MIN_DELTA", switch="PATIENCE"),
    flag("SOLVER.CLIP_GRADIENTS", "CLIP_TYPE", "CLIP_VALUE", "NORM_TYPE"),
    flag("MODEL.MASK_FORMER.TEST", "OBJECT_MASK_THRESHOLD", "OVERLAP_THRESHOLD", switch="PANOPTIC_ON"),
    choice("MODEL.BACKBONE.TRAIN", "lora", section="MODEL.BACKBONE.LORA", keys=("RANK", "ALPHA", "DROPOUT", "TARGETS")),
    choice("MODEL.BACKBONE.TRAIN", "full", "lora", section="MODEL.BACKBONE", keys=("FREEZE_AT",)),
    choice("SOLVER.OPTIMIZER", "SGD", section="SOLVER", keys=("MOMENTUM", "NESTEROV")),
    choice("SOLVER.LR_SCHEDULER_NAME", "WarmupMultiStepLR", section="SOLVER", keys=("STEPS", "GAMMA")),
    choice(
        "SOLVER.LR_SCHEDULER_NAME",
        "WarmupPolyLR",
        section="SOLVER",
        keys=("POLY_LR_POWER", "POLY_LR_CONSTANT_ENDING"),
    ),
    choice(
        "INPUT.DATASET_MAPPER_NAME",
        *("coco_panoptic_lsj", "coco_instance_lsj"),
        section="INPUT",
        keys=("IMAGE_SIZE", "MIN_SCALE", "MAX_SCALE"),
    ),
)
# this project's backbones, and the section that each reads
BACKBONES = {
    "D2SeMaskSwinTransformer": "MODEL.SWIN.",
    "D2SeMaskMixTransformer": "MODEL.MIT.",
    "SeMaskTimm": "MODEL.TIMM.",
    "SeMaskViT": "MODEL.VIT.",
}


def settings_without_effect(cfg: CfgNode, stated: Collection[str]) -> dict[str, list[str]]:
    """Return those of the `stated` keys that the config switches off, by the key that does."""
    result: dict[str, list[str]] = {}
    for switch in SWITCHES:
        keys = [key for name in switch.keys if (key := f"{switch.section}.{name}") in stated]
        if keys and not switch.is_on(cfg):
            result.setdefault(switch.key, []).extend(keys)
    section = BACKBONES.get(cfg.MODEL.BACKBONE.NAME)
    others = tuple(other for other in BACKBONES.values() if other != section)
    if section and (keys := [key for key in stated if key.startswith(others)]):
        result["MODEL.BACKBONE.NAME"] = keys
    return result


def warn_of_settings_without_effect(cfg: CfgNode, stated: Collection[str]) -> None:
    """Log a warning for `stated` keys, those that the user gave, that another setting switches off."""
    for key, keys in settings_without_effect(cfg, stated).items():
        verb = "has" if len(keys) == 1 else "have"
        logger.warning("%s %s no effect while %s is %s", ", ".join(keys), verb, key, value_of(cfg, key))
