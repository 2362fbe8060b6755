"""Translation of published configs of Mask2Former, MaskFormer and SeMask to this project.

A published file omits keys whose defaults suit the code it was written for. Where those defaults, or the names of
components, differ from the project's, the values are filled in.
"""

from __future__ import annotations

import copy
from typing import Any

from semask_d2.config.yaml_files import overlay

# component names in published files, and the names of the same components here
NAMES = {
    "MODEL.META_ARCHITECTURE": {"MaskFormer": "SeMaskMaskFormer"},
    "MODEL.SEM_SEG_HEAD.NAME": {"MaskFormerHead": "BranchMaskFormerHead"},
    "MODEL.BACKBONE.NAME": {"D2SwinTransformer": "D2SeMaskSwinTransformer"},
}
ARCHITECTURES = ("MaskFormer", "SeMaskMaskFormer")
SEMASK_BACKBONE = "D2SeMaskSwinTransformer"
PLAIN_BACKBONE = "D2SwinTransformer"
STAGES_KEY = "MODEL.SWIN.SEM_WINDOWED_STAGES"
# for SeMask with Mask2Former, by the number of classes; the published code covers no other numbers
WINDOWED_STAGES = {150: [0, 1, 2], 19: [0, 1, 2, 3]}
ALIGNED_STAGES = [0, 1]  # with FaPN and MSFaPN
MASKFORMER_STAGES = [0, 1, 2]


def completed(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the merged values of a published file with its code's defaults added, and the added values by key.

    A file that does not describe a complete model of these projects is returned unchanged. SEM_INIT, which sets how the
    semantic layers are initialized, keeps the project's default, because with the released one the attention never
    learns.
    """
    if value_at(values, "MODEL.META_ARCHITECTURE") not in ARCHITECTURES:
        return values, {}
    added: dict[str, Any] = {}
    for key, known in NAMES.items():
        if (name := value_at(values, key)) in known:
            added[key] = known[name]
    for key, default in code_defaults(values).items():
        if value_at(values, key) is None:
            added[key] = default
    result = copy.deepcopy(values)
    for key, value in added.items():
        for part in reversed(key.split(".")):
            value = {part: value}
        result = overlay(result, value)
    return result, added


def code_defaults(values: dict[str, Any]) -> dict[str, Any]:
    """Return, by key, the defaults of the published code that differ from the project's."""
    defaults: dict[str, Any] = {
        "SOLVER.LR_SCHEDULER_NAME": "WarmupMultiStepLR",  # Detectron2's
        "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "value",
    }
    is_mask2former = value_at(values, "MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE") == "multi_scale_pixel_decoder"
    if not is_mask2former:  # MaskFormer's code has one decoder, and no key for it
        defaults["MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME"] = "StandardTransformerDecoder"
    backbone = value_at(values, "MODEL.BACKBONE.NAME")
    if backbone == PLAIN_BACKBONE:
        defaults["MODEL.SWIN.NUM_SEM_BLOCKS"] = 0
    elif backbone == SEMASK_BACKBONE and value_at(values, "MODEL.SWIN.NUM_SEM_BLOCKS") != 0:
        stages = windowed_stages(values, is_mask2former)
        if stages is not None:
            defaults[STAGES_KEY] = stages
    return defaults


def windowed_stages(values: dict[str, Any], is_mask2former: bool) -> list[int] | None:
    """Return the stages whose semantic layers use windows in SeMask's code; None if the code does not define them."""
    if "FAN" in str(value_at(values, "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME")):
        return ALIGNED_STAGES
    if not is_mask2former:
        return MASKFORMER_STAGES
    return WINDOWED_STAGES.get(value_at(values, "MODEL.SEM_SEG_HEAD.NUM_CLASSES"))


def value_at(values: dict[str, Any], key: str) -> Any:
    """Return the value at a dotted key of nested dicts, or None."""
    node: Any = values
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node
