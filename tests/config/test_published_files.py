"""Published configs of SeMask and Mask2Former can be merged, with all their sections and keys."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from semask_d2 import get_cfg
from semask_d2.d2 import BACKBONE_REGISTRY, build_backbone

BASE = """
VERSION: 2
MODEL:
  BACKBONE: {FREEZE_AT: 0, NAME: build_resnet_backbone}
  WEIGHTS: detectron2://ImageNetPretrained/torchvision/R-50.pkl
  PIXEL_MEAN: [123.675, 116.280, 103.530]
  PIXEL_STD: [58.395, 57.120, 57.375]
  RESNETS:
    DEPTH: 50
    STEM_TYPE: basic
    STEM_OUT_CHANNELS: 64
    STRIDE_IN_1X1: False
    OUT_FEATURES: [res2, res3, res4, res5]
    NORM: SyncBN
    RES4_DILATION: 1
    RES5_MULTI_GRID: [1, 1, 1]
DATASETS: {TRAIN: [ade20k_sem_seg_train], TEST: [ade20k_sem_seg_val]}
SOLVER:
  IMS_PER_BATCH: 16
  BASE_LR: 0.0001
  MAX_ITER: 160000
  WARMUP_FACTOR: 1.0
  WARMUP_ITERS: 0
  WEIGHT_DECAY: 0.05
  WEIGHT_DECAY_EMBED: 0.0
  OPTIMIZER: ADAMW
  LR_SCHEDULER_NAME: WarmupPolyLR
  POLY_LR_POWER: 0.9
  POLY_LR_CONSTANT_ENDING: 0.0
  BACKBONE_MULTIPLIER: 0.1
  CLIP_GRADIENTS: {ENABLED: True, CLIP_TYPE: full_model, CLIP_VALUE: 0.01, NORM_TYPE: 2.0}
  AMP: {ENABLED: True}
INPUT:
  MIN_SIZE_TRAIN: [256, 512, 1024]
  MIN_SIZE_TRAIN_SAMPLING: choice
  MIN_SIZE_TEST: 512
  MAX_SIZE_TRAIN: 2048
  MAX_SIZE_TEST: 2048
  CROP: {ENABLED: True, TYPE: absolute, SIZE: [512, 512], SINGLE_CATEGORY_MAX_AREA: 1.0}
  COLOR_AUG_SSD: True
  SIZE_DIVISIBILITY: 512
  FORMAT: RGB
  DATASET_MAPPER_NAME: mask_former_semantic
TEST:
  EVAL_PERIOD: 5000
  AUG: {ENABLED: False, MIN_SIZES: [256, 384], MAX_SIZE: 3584, FLIP: True}
DATALOADER: {FILTER_EMPTY_ANNOTATIONS: True, NUM_WORKERS: 4}
"""
HEAD = """
_BASE_: base.yaml
MODEL:
  META_ARCHITECTURE: MaskFormer
  SEM_SEG_HEAD:
    NAME: MaskFormerHead
    IGNORE_VALUE: 255
    NUM_CLASSES: 150
    LOSS_WEIGHT: 1.0
    LOSS_TYPE: hard_pixel_mining
    PROJECT_FEATURES: [res2]
    PROJECT_CHANNELS: [48]
    ASPP_CHANNELS: 256
    ASPP_DILATIONS: [6, 12, 18]
    ASPP_DROPOUT: 0.1
    USE_DEPTHWISE_SEPARABLE_CONV: False
    COMMON_STRIDE: 4
    CONVS_DIM: 256
    MASK_DIM: 256
    NORM: GN
    PIXEL_DECODER_NAME: MSDeformAttnPixelDecoder
    IN_FEATURES: [res2, res3, res4, res5]
    DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES: [res3, res4, res5]
    DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS: 4
    DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS: 8
    TRANSFORMER_ENC_LAYERS: 6
  MASK_FORMER:
    TRANSFORMER_DECODER_NAME: MultiScaleMaskedTransformerDecoder
    TRANSFORMER_IN_FEATURE: multi_scale_pixel_decoder
    DEEP_SUPERVISION: True
    NO_OBJECT_WEIGHT: 0.1
    CLASS_WEIGHT: 2.0
    MASK_WEIGHT: 5.0
    DICE_WEIGHT: 5.0
    CATE_WEIGHT: 0.4
    HIDDEN_DIM: 256
    NUM_OBJECT_QUERIES: 100
    NHEADS: 8
    DROPOUT: 0.0
    DIM_FEEDFORWARD: 2048
    ENC_LAYERS: 0
    PRE_NORM: False
    ENFORCE_INPUT_PROJ: False
    SIZE_DIVISIBILITY: 32
    DEC_LAYERS: 10
    TRAIN_NUM_POINTS: 12544
    OVERSAMPLE_RATIO: 3.0
    IMPORTANCE_SAMPLE_RATIO: 0.75
    TEST:
      SEMANTIC_ON: True
      INSTANCE_ON: False
      PANOPTIC_ON: False
      OVERLAP_THRESHOLD: 0.8
      OBJECT_MASK_THRESHOLD: 0.8
      SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE: False
"""
SWIN = """
_BASE_: head.yaml
MODEL:
  META_ARCHITECTURE: SeMaskMaskFormer
  BACKBONE: {NAME: D2SeMaskSwinTransformer}
  SEM_SEG_HEAD: {NAME: BranchMaskFormerHead}
  SWIN:
    EMBED_DIM: 192
    DEPTHS: [2, 2, 18, 2]
    NUM_HEADS: [6, 12, 24, 48]
    WINDOW_SIZE: 12
    SEM_WINDOW_SIZE: 12
    NUM_SEM_BLOCKS: 1
    APE: False
    PATCH_NORM: True
    DROP_PATH_RATE: 0.3
    PRETRAIN_IMG_SIZE: 384
    OUT_FEATURES: [res2, res3, res4, res5]
    USE_CHECKPOINT: False
  WEIGHTS: swin_large_patch4_window12_384_22k.pkl
INPUT: {IMAGE_SIZE: 1024, MIN_SCALE: 0.1, MAX_SCALE: 2.0, DATASET_MAPPER_NAME: coco_panoptic_lsj}
"""
# a MaskFormer config with its original pixel decoder, and tuples instead of lists as its authors write them
MASKFORMER = """
_BASE_: base.yaml
MODEL:
  META_ARCHITECTURE: "MaskFormer"
  SEM_SEG_HEAD:
    NAME: "MaskFormerHead"
    IN_FEATURES: ["res2", "res3", "res4", "res5"]
    IGNORE_VALUE: 255
    NUM_CLASSES: 150
    COMMON_STRIDE: 4 # not used, hard-coded
    LOSS_WEIGHT: 1.0
    CONVS_DIM: 256
    MASK_DIM: 256
    NORM: "GN"
    PIXEL_DECODER_NAME: "TransformerEncoderPixelDecoder"
    TRANSFORMER_ENC_LAYERS: 6
  MASK_FORMER:
    TRANSFORMER_IN_FEATURE: "res5"
    DEEP_SUPERVISION: True
    NO_OBJECT_WEIGHT: 0.1
    DICE_WEIGHT: 1.0
    MASK_WEIGHT: 20.0
    HIDDEN_DIM: 256
    NUM_OBJECT_QUERIES: 100
    NHEADS: 8
    DROPOUT: 0.1
    DIM_FEEDFORWARD: 2048
    ENC_LAYERS: 0
    DEC_LAYERS: 6
    PRE_NORM: False
    ENFORCE_INPUT_PROJ: False
    SIZE_DIVISIBILITY: 32
    TEST: {PANOPTIC_ON: True, OVERLAP_THRESHOLD: 0.8, OBJECT_MASK_THRESHOLD: 0.8}
DATASETS:
  TRAIN: ("coco_2017_train_panoptic",)
  TEST: ("coco_2017_val_panoptic",)
SOLVER:
  STEPS: (327778, 355092)
  WARMUP_ITERS: 10
  LR_SCHEDULER_NAME: "WarmupMultiStepLR"
INPUT: {IMAGE_SIZE: 1024, MIN_SCALE: 0.1, MAX_SCALE: 2.0, DATASET_MAPPER_NAME: "coco_panoptic_lsj"}
"""
# a MaskFormer config with ResNet-101 in DeepLab's variant
R101C = """
_BASE_: maskformer.yaml
MODEL:
  BACKBONE: {NAME: "build_resnet_deeplab_backbone"}
  WEIGHTS: "detectron2://DeepLab/R-103.pkl"
  PIXEL_STD: [57.375, 57.120, 58.395]
  RESNETS:
    DEPTH: 101
    STEM_TYPE: "deeplab"
    STEM_OUT_CHANNELS: 128
    STRIDE_IN_1X1: False
    OUT_FEATURES: ["res2", "res3", "res4", "res5"]
    RES5_MULTI_GRID: [1, 2, 4]
"""
FILES = {"base": BASE, "head": HEAD, "swin": SWIN, "maskformer": MASKFORMER, "r101c": R101C}
BACKBONES = {"swin": "D2SeMaskSwinTransformer", "r101c": "build_resnet_deeplab_backbone"}


@pytest.mark.parametrize("name", FILES)
def test_a_published_file_merges(name: str, tmp_path: Path) -> None:
    for key, text in FILES.items():
        (tmp_path / f"{key}.yaml").write_text(text)
    cfg = get_cfg(tmp_path / f"{name}.yaml")
    deeplab = name == "r101c"
    assert (101 if deeplab else 50) == cfg.MODEL.RESNETS.DEPTH
    assert ([1, 2, 4] if deeplab else [1, 1, 1]) == cfg.MODEL.RESNETS.RES5_MULTI_GRID
    assert cfg.SOLVER.POLY_LR_POWER == 0.9
    assert BACKBONES.get(name, "build_resnet_backbone") == cfg.MODEL.BACKBONE.NAME
    assert (10 if name in ("head", "swin") else 6) == cfg.MODEL.MASK_FORMER.DEC_LAYERS
    assert cfg.MODEL.BACKBONE.NAME in BACKBONE_REGISTRY
    if name == "maskformer":
        assert tuple(cfg.DATASETS.TEST) == ("coco_2017_val_panoptic",)
        assert tuple(cfg.SOLVER.STEPS) == (327778, 355092)


@pytest.mark.parametrize(("name", "norms"), [("head", 53), ("r101c", 106)])
def test_its_backbone_is_built(name: str, norms: int, tmp_path: Path) -> None:
    for key, text in FILES.items():
        (tmp_path / f"{key}.yaml").write_text(text)
    cfg = get_cfg(tmp_path / f"{name}.yaml", ["MODEL.DEVICE", "cpu"])
    with torch.device("meta"):
        backbone = build_backbone(cfg)
    assert [shape.channels for shape in backbone.output_shape().values()] == [256, 512, 1024, 2048]
    assert len([key for key in backbone.state_dict() if key.endswith("running_mean")]) == norms
