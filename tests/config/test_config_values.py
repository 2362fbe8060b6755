"""Values that no model can be built with end with the key, the value and what was expected."""

from __future__ import annotations

import pytest

from semask_d2 import build_model, get_cfg
from semask_d2.utils.errors import UserError
from tests.helpers.commands import TINY, TOY_CONFIG


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.META_ARCHITECTURE", "SeMaskMaskFormr", 'Did you mean "SeMaskMaskFormer"'),
        ("MODEL.BACKBONE.NAME", "D2SeMaskSwin", "D2SeMaskSwinTransformer"),
        ("MODEL.SEM_SEG_HEAD.NAME", "MaskFormerHead", "BranchMaskFormerHead"),
        ("MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "MSDeformAttnDecoder", "MSDeformAttnPixelDecoder"),
        ("MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME", "Standard", "StandardTransformerDecoder"),
        ("MODEL.SEM_SEG_HEAD.NORM", "LN", "'LN'"),
        ("MODEL.SEM_SEG_HEAD.CONVS_DIM", "48", "multiple of 32"),
        ("MODEL.SEM_SEG_HEAD.IN_FEATURES", "['res2','res3','res4','res55']", 'Did you mean "res5"'),
        ("MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES", "['res3','res4','res6']", '"res6"'),
        ("MODEL.SWIN.OUT_FEATURES", "['res2','res3','res4']", '"res5"'),
        ("MODEL.SWIN.NUM_HEADS", "[1,2]", "one number per stage"),
        ("MODEL.SWIN.NUM_HEADS", "[3,6,12,24]", "do not divide"),
        ("MODEL.SWIN.DROP_PATH_RATE", "1.0", "below 1"),
        ("MODEL.SWIN.SEM_WINDOWED_STAGES", "[4]", "from 0 to 3"),
        ("MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE", "res5", "several maps"),
        ("MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE", "res7", "backbone feature"),
        ("MODEL.MASK_FORMER.TEST.SEMANTIC_ON", "False", "expected True"),
        ("MODEL.MASK_FORMER.TEST.PANOPTIC_ON", "True", "expected False"),
        ("MODEL.MASK_FORMER.NHEADS", "5", "multiple of 5"),
        ("MODEL.MASK_FORMER.HIDDEN_DIM", "30", "multiple of 4"),
        ("MODEL.MASK_FORMER.DEC_LAYERS", "0", "at least 1"),
        ("MODEL.MASK_FORMER.IMPORTANCE_SAMPLE_RATIO", "1.5", "between 0 and 1"),
        ("MODEL.MASK_FORMER.OVERSAMPLE_RATIO", "0.5", "OVERSAMPLE_RATIO"),
        ("MODEL.MASK_FORMER.TRAIN_NUM_POINTS", "0", "at least 1"),
        ("MODEL.MASK_FORMER.PRE_NORM", "True", "only False"),
    ],
)
def test_is_named_with_what_was_expected(key: str, value: str, message: str) -> None:
    cfg = get_cfg(TOY_CONFIG, (*TINY, key, value))
    with pytest.raises(UserError, match=r"MODEL\.") as caught:
        build_model(cfg)
    assert message in str(caught.value)


def test_windowed_stages_make_the_parameters_no_different_but_must_exist() -> None:
    cfg = get_cfg(TOY_CONFIG, (*TINY, "MODEL.SWIN.SEM_WINDOWED_STAGES", "[]"))
    assert all(stage.semantic_layer.window is None for stage in build_model(cfg).backbone.layers)
