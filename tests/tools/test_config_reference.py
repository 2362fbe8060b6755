"""docs/config_reference.md is up to date with its tool, and contains every key."""

from __future__ import annotations

import re

from semask_d2.config.defaults import DEFAULTS
from tests.helpers.commands import load_script

tool = load_script("tools/config_reference.py")

PAGE = tool.as_page()
ROWS = {row.split("`")[1]: row for row in PAGE.splitlines() if row.startswith("| `")}


def test_the_page_is_up_to_date() -> None:
    assert tool.PAGE.read_text(encoding="utf-8") == PAGE, "run python tools/config_reference.py"


def test_it_holds_every_key_once_and_in_order() -> None:
    keys = re.findall(r"^\| `([^`]+)` ", PAGE, re.MULTILINE)
    assert keys[: len(DEFAULTS)] == list(DEFAULTS)
    assert len(keys) == len(set(keys)) > len(DEFAULTS) + 10


def test_rows_agree_with_the_code() -> None:
    """One key of each kind: a comment beside it, above it, or from a shared function; a range; two components."""
    assert "| fraction of the training images to use instead of VAL |" in ROWS["DATASETS.CUSTOM.VAL_FRACTION"]
    assert '"bf16": bfloat16 autocast of backbone and head' in ROWS["MODEL.PRECISION"]
    assert (
        "| `[0, 1]` | the other stages attend globally | `D2SeMaskMixTransformer` |"
        in ROWS["MODEL.MIT.SEM_WINDOWED_STAGES"]
    )
    assert "at least 0" in ROWS["SOLVER.BACKBONE_MULTIPLIER"]
    assert (
        "`MSDeformAttnPixelDecoder`, `MSDeformAttnPixelFANDecoder`" in ROWS["MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS"]
    )
    assert "`MaskTransformerDecoder`" not in PAGE


def test_everyday_keys_have_a_meaning_and_are_detectron2s() -> None:
    assert not tool.EVERYDAY.keys() & DEFAULTS.keys()
    needed = ("TEST.AUG.MIN_SIZES", "SOLVER.IMS_PER_BATCH", "INPUT.CROP.SIZE", "DATASETS.TRAIN", "MODEL.PIXEL_STD")
    for key in (*needed, "SOLVER.BASE_LR", "SOLVER.MAX_ITER", "SOLVER.AMP.ENABLED", "INPUT.MIN_SIZE_TEST"):
        assert tool.EVERYDAY[key] in ROWS[key]
    assert "timm.list_models()" in ROWS["MODEL.TIMM.NAME"]


def test_headings_are_the_comments_of_the_table() -> None:
    sections = {section.title: section for section in tool.sections()}
    assert sections["DeepLab"].text.startswith("Published config files have these keys")
    assert "MODEL.SEM_SEG_HEAD.OHEM_PIXELS" in [key.name for key in sections["Heads"].keys]
