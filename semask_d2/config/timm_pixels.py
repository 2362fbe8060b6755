"""Pixel normalization of a timm backbone whose name was changed: that of timm's weights, not of the config below."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from semask_d2.d2 import CfgNode
from semask_d2.utils.arguments import value_of

logger = logging.getLogger(__name__)

NAMES = {"SeMaskTimm": "MODEL.TIMM.NAME", "SeMaskViT": "MODEL.VIT.NAME"}  # by MODEL.BACKBONE.NAME
WEIGHTS = "timm://"
PIXELS = {"MODEL.PIXEL_MEAN": "mean", "MODEL.PIXEL_STD": "std"}
PIXEL_SCALE = 255  # timm has pixels in 0..1
SAME = 0.01  # of 255; smaller differences are rounding


def follow_timm(cfg: CfgNode, layers: Sequence[Mapping[str, object]]) -> None:
    """Set MODEL.PIXEL_MEAN and PIXEL_STD to timm's if the backbone's name was changed and they were not.

    `layers` are the values that the files of the config and the user set, by key, later ones on top.
    """
    name_key = NAMES.get(cfg.MODEL.BACKBONE.NAME, "")

    def last(*keys: str) -> int:
        return max((i for i, layer in enumerate(layers) if any(key in layer for key in keys)), default=-1)

    if not name_key or last(name_key) <= last(*PIXELS) or not value_of(cfg, name_key):
        return
    values = published_pixels(cfg, value_of(cfg, name_key))
    changed = [
        key
        for key, numbers in values.items()
        if len(numbers) == len(value_of(cfg, key))
        and any(abs(a - b) > SAME for a, b in zip(numbers, value_of(cfg, key), strict=True))
    ]
    if changed:
        cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = values["MODEL.PIXEL_MEAN"], values["MODEL.PIXEL_STD"]
        logger.warning(
            "%s is %s: MODEL.PIXEL_MEAN %s and MODEL.PIXEL_STD %s are now those of timm's weights; set them yourself "
            "if the weights need others",
            *(name_key, value_of(cfg, name_key), cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD),
        )


def published_pixels(cfg: CfgNode, name: str) -> dict[str, list[float]]:
    """Return timm's mean and standard deviation, by our keys: those of MODEL.WEIGHTS if they are `name`'s."""
    import timm  # imported late: it takes seconds

    tagged = cfg.MODEL.WEIGHTS.removeprefix(WEIGHTS)  # with the tag of a training, such as resnet18.a1_in1k
    try:
        published = timm.get_pretrained_cfg(tagged if tagged.split(".")[0] == name.split(".")[0] else name)
    except RuntimeError:  # an unknown tag; `build_model` and the loading of weights name it
        published = None
    if published is None:
        return {}
    order = -1 if cfg.INPUT.FORMAT == "BGR" else 1
    return {key: [round(PIXEL_SCALE * x, 3) for x in getattr(published, at)][::order] for key, at in PIXELS.items()}
