"""Published configs are converted with the defaults of the code they were written for, not the project's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from semask_d2 import build_model, get_cfg
from semask_d2.checkpoint.semantic_windows import windows_of_model
from tests.config.test_published_files import FILES
from tests.helpers.commands import load_script

tool = load_script("tools/convert_config.py")

COCO = """
MODEL: {SEM_SEG_HEAD: {NUM_CLASSES: 133}}
DATASETS:
  TRAIN: ("coco_2017_train_panoptic",)
  TEST: ("coco_2017_val_panoptic",)
SOLVER:
  STEPS: (327778, 355092)
  MAX_ITER: 368750
  WARMUP_ITERS: 10
INPUT: {IMAGE_SIZE: 1024, MIN_SCALE: 0.1, MAX_SCALE: 2.0, DATASET_MAPPER_NAME: "coco_panoptic_lsj"}
"""
PLAIN_SWIN = """
_BASE_: head.yaml
MODEL:
  BACKBONE: {NAME: "D2SwinTransformer"}
  SWIN: {EMBED_DIM: 192, DEPTHS: [2, 2, 18, 2], NUM_HEADS: [6, 12, 24, 48], WINDOW_SIZE: 12, DROP_PATH_RATE: 0.3}
"""
SEMASK_MASKFORMER = """
_BASE_: swin.yaml
MODEL:
  SEM_SEG_HEAD: {PIXEL_DECODER_NAME: "BasePixelDecoder", TRANSFORMER_ENC_LAYERS: 0}
  MASK_FORMER: {TRANSFORMER_IN_FEATURE: "res5", DROPOUT: 0.1, DEC_LAYERS: 6}
"""
EXPRESSION = "[int(x * 0.1 * 640) for x in range(5, 21)]"
SIZES = f'_BASE_: swin.yaml\nINPUT:\n  MIN_SIZE_TRAIN: !!python/object/apply:eval ["{EXPRESSION}"]'
ALIGNED = '_BASE_: swin.yaml\nMODEL: {{SEM_SEG_HEAD: {{PIXEL_DECODER_NAME: "{}"}}}}'
STATED_DECODER = "    TRANSFORMER_DECODER_NAME: MultiScaleMaskedTransformerDecoder\n"
SCHEDULE = "  LR_SCHEDULER_NAME: WarmupPolyLR\n"
PUBLISHED = {
    **FILES,
    "semask_maskformer": SEMASK_MASKFORMER.replace("swin.yaml", "without_decoder.yaml"),
    "without_decoder": FILES["swin"].replace("head.yaml", "headless.yaml"),
    "headless": FILES["head"].replace(STATED_DECODER, ""),
    "plain_swin": PLAIN_SWIN,
    "fapn": ALIGNED.format("PixelFANDecoder"),
    "msfapn": ALIGNED.format("MSDeformAttnPixelFANDecoder"),
    "cityscapes": "_BASE_: swin.yaml\nMODEL: {SEM_SEG_HEAD: {NUM_CLASSES: 19}}",
    "others": "_BASE_: swin.yaml\nMODEL: {SEM_SEG_HEAD: {NUM_CLASSES: 21}}",
    "sizes": SIZES,
    "coco_base": FILES["base"].replace(SCHEDULE, ""),
    "coco_head": FILES["head"].replace("base.yaml", "coco_base.yaml"),
    "coco": "_BASE_: coco_head.yaml" + COCO,
    "maskformer_base": FILES["maskformer"].replace("TransformerEncoderPixelDecoder", "BasePixelDecoder"),
    "baseline": "_BASE_: base.yaml\nMODEL: {META_ARCHITECTURE: SemanticSegmentor}",
}
MULTI, STANDARD = "MultiScaleMaskedTransformerDecoder", "StandardTransformerDecoder"
# decoder, schedule, semantic blocks and windowed stages, as computed by the code that each file was written for
EXPECTED: dict[str, tuple[str, str, int, list[int] | None]] = {
    "head": (MULTI, "WarmupPolyLR", 1, None),
    "coco": (MULTI, "WarmupMultiStepLR", 1, None),
    "plain_swin": (MULTI, "WarmupPolyLR", 0, None),
    "swin": (MULTI, "WarmupPolyLR", 1, [0, 1, 2]),
    "sizes": (MULTI, "WarmupPolyLR", 1, [0, 1, 2]),
    "cityscapes": (MULTI, "WarmupPolyLR", 1, [0, 1, 2, 3]),
    "fapn": (MULTI, "WarmupPolyLR", 1, [0, 1]),
    "msfapn": (MULTI, "WarmupPolyLR", 1, [0, 1]),
    "semask_maskformer": (STANDARD, "WarmupPolyLR", 1, [0, 1, 2]),
    "maskformer": (STANDARD, "WarmupMultiStepLR", 1, None),
    "r101c": (STANDARD, "WarmupMultiStepLR", 1, None),
    "maskformer_base": (STANDARD, "WarmupMultiStepLR", 1, None),
}


def converted(name: str, folder: Path) -> Any:
    for key, text in PUBLISHED.items():
        (folder / f"{key}.yaml").write_text(text)
    tool.main([str(folder / f"{name}.yaml"), "--output", str(folder / "literal.yaml")])
    return get_cfg(folder / "literal.yaml", ["MODEL.DEVICE", "cpu"])


@pytest.mark.parametrize("name", EXPECTED)
def test_missing_keys_get_the_published_codes_defaults(name: str, tmp_path: Path) -> None:
    cfg = converted(name, tmp_path)
    decoder, schedule, blocks, stages = EXPECTED[name]
    assert decoder == cfg.MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME
    assert schedule == cfg.SOLVER.LR_SCHEDULER_NAME
    assert blocks == cfg.MODEL.SWIN.NUM_SEM_BLOCKS
    if stages is not None:
        assert stages == cfg.MODEL.SWIN.SEM_WINDOWED_STAGES
    assert (cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.SEM_SEG_HEAD.NAME) == ("SeMaskMaskFormer", "BranchMaskFormerHead")
    assert cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE == "full_model"  # stated in all files


@pytest.mark.parametrize(
    ("name", "windows"),
    [
        ("cityscapes", [12] * 4),
        ("fapn", [12, 12, None, None]),
        ("plain_swin", []),
        ("coco", []),
        ("maskformer_base", []),
    ],
)
def test_it_builds_the_same_as_the_published_code(name: str, windows: list[int | None], tmp_path: Path) -> None:
    cfg = converted(name, tmp_path)
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        assert windows_of_model(build_model(cfg)) == windows


def test_clipping_by_value_is_detectron2s_default(tmp_path: Path) -> None:
    text = PUBLISHED["base"].replace("CLIP_TYPE: full_model, ", "")
    text = text.replace("MODEL:\n", "MODEL:\n  META_ARCHITECTURE: MaskFormer\n")
    (tmp_path / "one.yaml").write_text(text)
    tool.main([str(tmp_path / "one.yaml"), "--output", str(tmp_path / "two.yaml")])
    assert get_cfg(tmp_path / "two.yaml").SOLVER.CLIP_GRADIENTS.CLIP_TYPE == "value"


def test_what_was_filled_in_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    converted("cityscapes", tmp_path)
    assert "  MODEL.SWIN.SEM_WINDOWED_STAGES: [0, 1, 2, 3]\n" in capsys.readouterr().out
    (tmp_path / "literal.yaml").unlink()
    converted("others", tmp_path)
    assert "SEM_WINDOWED_STAGES is not known for this number of classes" in capsys.readouterr().out


def test_files_that_are_no_complete_published_model_stay(tmp_path: Path) -> None:
    for name in ("base", "baseline"):
        cfg = converted(name, tmp_path)
        (tmp_path / "literal.yaml").unlink()
        other = get_cfg(tmp_path / f"{name}.yaml", ["MODEL.DEVICE", "cpu"])
        assert cfg == other
