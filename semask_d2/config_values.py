"""What config values cannot be, said before a model is built from them."""

from __future__ import annotations

from semask_d2.config import DEFAULTS, all_keys
from semask_d2.d2 import CfgNode
from semask_d2.errors import UserError

NORMS = ("", "GN", "BN", "SyncBN")


def check_values(cfg: CfgNode) -> None:
    """Raise `UserError` naming the first key whose value our models cannot be built with, and what it may be."""
    if missing := DEFAULTS.keys() - set(all_keys(cfg)):
        raise UserError(f"the config lacks {min(missing)}: call semask_d2.add_semask_config(cfg) before merging files")
    model = cfg.MODEL
    if model.SEM_SEG_HEAD.NORM not in NORMS:
        raise UserError(f"MODEL.SEM_SEG_HEAD.NORM: expected one of {NORMS}, got {model.SEM_SEG_HEAD.NORM!r}")
    if model.SEM_SEG_HEAD.NORM == "GN":
        _require_multiple(cfg, "MODEL.SEM_SEG_HEAD.CONVS_DIM", 32, "GroupNorm's 32 groups")
    if model.BACKBONE.NAME == "D2SeMaskSwinTransformer":
        check_swin(cfg)
    if model.META_ARCHITECTURE == "SeMaskMaskFormer":
        check_mask_former(cfg)


def check_swin(cfg: CfgNode) -> None:
    """The values of MODEL.SWIN among themselves."""
    swin = cfg.MODEL.SWIN
    if len(swin.NUM_HEADS) != len(swin.DEPTHS):
        raise UserError(
            f"MODEL.SWIN.NUM_HEADS: expected one number per stage of MODEL.SWIN.DEPTHS {list(swin.DEPTHS)}, "
            f"got {list(swin.NUM_HEADS)}"
        )
    for stage, heads in enumerate(swin.NUM_HEADS):
        dim = swin.EMBED_DIM * 2**stage
        if heads < 1 or dim % heads:
            raise UserError(
                f"MODEL.SWIN.NUM_HEADS: {heads} heads do not divide the {dim} channels of stage {stage} "
                f"(MODEL.SWIN.EMBED_DIM {swin.EMBED_DIM})"
            )
    if not 0 <= swin.DROP_PATH_RATE < 1:
        raise UserError(f"MODEL.SWIN.DROP_PATH_RATE: expected at least 0 and below 1, got {swin.DROP_PATH_RATE}")


def check_mask_former(cfg: CfgNode) -> None:
    """The values of MODEL.MASK_FORMER among themselves."""
    mask_former = cfg.MODEL.MASK_FORMER
    if not mask_former.TEST.SEMANTIC_ON:
        raise UserError("MODEL.MASK_FORMER.TEST.SEMANTIC_ON: expected True, semantic scores are all there is")
    for task in ("INSTANCE_ON", "PANOPTIC_ON"):
        if mask_former.TEST[task]:
            raise UserError(f"MODEL.MASK_FORMER.TEST.{task}: expected False, SeMask does semantic segmentation only")
    _require_multiple(cfg, "MODEL.MASK_FORMER.HIDDEN_DIM", 4, "the sine and cosine of y and x")
    _require_multiple(
        cfg, "MODEL.MASK_FORMER.HIDDEN_DIM", mask_former.NHEADS, f"MODEL.MASK_FORMER.NHEADS {mask_former.NHEADS}"
    )
    if mask_former.DEC_LAYERS < 1:
        raise UserError(f"MODEL.MASK_FORMER.DEC_LAYERS: expected at least 1, got {mask_former.DEC_LAYERS}")
    share, oversampled = mask_former.IMPORTANCE_SAMPLE_RATIO, mask_former.OVERSAMPLE_RATIO
    if not 0 <= share <= min(1, oversampled):
        raise UserError(
            "MODEL.MASK_FORMER.IMPORTANCE_SAMPLE_RATIO: expected between 0 and 1 and at most "
            f"OVERSAMPLE_RATIO ({oversampled}), got {share}"
        )
    if mask_former.TRAIN_NUM_POINTS < 1:
        raise UserError(f"MODEL.MASK_FORMER.TRAIN_NUM_POINTS: expected at least 1, got {mask_former.TRAIN_NUM_POINTS}")


def _require_multiple(cfg: CfgNode, key: str, divisor: int, of_what: str) -> None:
    value = cfg
    for part in key.split("."):
        value = value[part]
    if divisor < 1 or value < 1 or value % divisor:
        raise UserError(f"{key}: expected a multiple of {divisor} ({of_what}), got {value}")
