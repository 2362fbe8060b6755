"""Published configs of Mask2Former, MaskFormer and SeMask in this project's terms.

Such a file leaves keys to the defaults of the code that it was written for. Where these differ from the project's, and
where a part has another name here, the values are written out.
"""

from __future__ import annotations

import copy
from typing import Any

from semask_d2.config.yaml_files import overlay

# what a file calls a part, and what the same part is called here
NAMES = {
    "MODEL.META_ARCHITECTURE": {"MaskFormer": "SeMaskMaskFormer"},
    "MODEL.SEM_SEG_HEAD.NAME": {"MaskFormerHead": "BranchMaskFormerHead"},
    "MODEL.BACKBONE.NAME": {"D2SwinTransformer": "D2SeMaskSwinTransformer"},
}
ARCHITECTURES = ("MaskFormer", "SeMaskMaskFormer")
SEMASK_BACKBONE = "D2SeMaskSwinTransformer"
PLAIN_BACKBONE = "D2SwinTransformer"
STAGES_KEY = "MODEL.SWIN.SEM_WINDOWED_STAGES"
# of SeMask under Mask2Former, by the number of classes; the code says it of no other number
WINDOWED_STAGES = {150: [0, 1, 2], 19: [0, 1, 2, 3]}
ALIGNED_STAGES = [0, 1]  # with FaPN and MSFaPN
MASKFORMER_STAGES = [0, 1, 2]


def completed(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values of a published file, of its bases too, with what its code adds to them; and that alone, by key.

    A file that is no whole model of these projects stays as it is. How a SeMask training starts (SEM_INIT) stays the
    project's, as the released way never learns its attention.
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
    """The defaults of a file's own code that differ from the project's, by key."""
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
    """The stages whose semantic layers attend within windows in SeMask's code; None where it does not tell."""
    if "FAN" in str(value_at(values, "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME")):
        return ALIGNED_STAGES
    if not is_mask2former:
        return MASKFORMER_STAGES
    return WINDOWED_STAGES.get(value_at(values, "MODEL.SEM_SEG_HEAD.NUM_CLASSES"))


def value_at(values: dict[str, Any], key: str) -> Any:
    """The value at a dotted key of nested dicts; None where there is none."""
    node: Any = values
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node
