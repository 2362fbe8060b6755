"""The project's config keys and their defaults, added to Detectron2's own."""

from __future__ import annotations

import copy
from typing import Any

from semask_d2.d2 import CfgNode
from semask_d2.utils.errors import UserError


def semantic_defaults(section: str) -> dict[str, Any]:
    """The keys of the semantic layers in the config section of a backbone."""
    return {
        f"MODEL.{section}.SEM_WINDOW_SIZE": 7,
        f"MODEL.{section}.NUM_SEM_BLOCKS": 1,  # 0: the backbone without SeMask
        f"MODEL.{section}.SEM_WINDOWED_STAGES": [0, 1],  # the others attend globally
        f"MODEL.{section}.SEM_INIT": "live",  # or "small": maps start uniform; "released": attention never learns
        f"MODEL.{section}.SEM_ATTENTION": "pairwise",  # or "scaled" by 1/sqrt(K), or to the image's class "centers"
        f"MODEL.{section}.SEM_RESIDUAL": "normalized",  # or on the "raw" features, with gates that start at zero
    }


# docs/config_reference.md is made of this table: a comment that starts with a capital is a heading and what stands
# under it, any other one is about its key, or the key after it
DEFAULTS: dict[str, Any] = {
    # Data
    # A data set of one's own, as a file given with --data describes it (semask_d2/config/custom_data.py); NAME "": none
    "DATASETS.CUSTOM.NAME": "",  # its splits are NAME_train and NAME_val
    "DATASETS.CUSTOM.ROOT": "",  # the folder at which relative names of files start
    "DATASETS.CUSTOM.TRAIN.IMAGES": [],  # patterns, folders or files; one .txt file may hold pairs
    "DATASETS.CUSTOM.TRAIN.LABELS": [],
    "DATASETS.CUSTOM.VAL.IMAGES": [],
    "DATASETS.CUSTOM.VAL.LABELS": [],
    "DATASETS.CUSTOM.VAL_FRACTION": 0.0,  # of the training images, in the place of VAL
    "DATASETS.CUSTOM.NAMES": [],
    "DATASETS.CUSTOM.COLORS": [],  # [r, g, b] of each class; none: distinct ones
    "DATASETS.CUSTOM.IGNORE": 255,
    "DATASETS.CUSTOM.MAP": [],  # [id in the label files, class] pairs
    "DATASETS.CUSTOM.RGB": [],  # ["#rrggbb" in the label files, class] pairs
    "DATASETS.CUSTOM.REDUCE_ZERO_LABEL": False,  # id 0 is ignored, 1 is the first class
    "INPUT.DATASET_MAPPER_NAME": "mask_former_semantic",
    # of the mappers with large-scale jitter ("..._lsj"): the side of the square, and its scales
    "INPUT.IMAGE_SIZE": 1024,
    "INPUT.MIN_SCALE": 0.1,
    "INPUT.MAX_SCALE": 2.0,
    "INPUT.COLOR_AUG_SSD": False,
    "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA": 1.0,  # no class may fill more than this part of a crop
    # in images of more than 8 bits, the values that become black and white, as [0, 4095]; []: by the type, [0, 65535]
    # for whole numbers and [0, 1] for floats. `value_range` of a data set's file sets it
    "INPUT.VALUE_RANGE": [],
    "INPUT.SKIP_UNREADABLE": False,  # train on without the images that cannot be read
    "INPUT.SIZE_DIVISIBILITY": -1,  # above 0: training images are padded to this side (see configs/recipes)
    # above 0 (0.01, say): images are drawn by their rare classes, which crops then show; the lower, the rarer
    "DATALOADER.RARE_CLASS_TEMPERATURE": 0.0,
    # Evaluation
    "TEST.SLIDING.ENABLED": False,  # images larger than a window in overlapping windows, in evaluation and prediction
    "TEST.SLIDING.SIZE": [0, 0],  # height and width of a window; [0, 0]: INPUT.CROP.SIZE
    "TEST.SLIDING.OVERLAP": 0.33,  # the least share of a side that neighbors have in common
    "TEST.SLIDING.BLENDING": "linear",  # weights that fall to a window's edges, or "mean"
    "TEST.BOUNDARY": False,  # also boundary IoU and trimap IoU, within 2% of the diagonal
    "TEST.SAVE_PREDICTIONS": False,  # write each prediction as PNG, in the data set's format for submissions
    "TEST.VALIDATION_LOSS": False,  # the training's loss on the test sets too, in training runs
    # Optimization
    "SOLVER.OPTIMIZER": "ADAMW",
    "SOLVER.BACKBONE_MULTIPLIER": 0.1,
    "SOLVER.SEMANTIC_MULTIPLIER": 1.0,  # of the semantic layers' rate, beside BACKBONE_MULTIPLIER
    "SOLVER.WEIGHT_DECAY_EMBED": 0.0,
    "SOLVER.NORM_PARAMETERS": "modules",  # what WEIGHT_DECAY_NORM is for: norm modules, or "names" that hold "norm"
    "SOLVER.POLY_LR_POWER": 0.9,
    "SOLVER.POLY_LR_CONSTANT_ENDING": 0.0,
    "SOLVER.CHECKPOINTS_KEPT": 3,  # the newest ones beside the best and the final; 0 keeps all
    "SOLVER.EMA.ENABLED": False,  # also keep and evaluate an exponential moving average of the weights
    "SOLVER.EMA.DECAY": 0.9998,  # of the average so far, an iteration; less at a run's start
    "SOLVER.EARLY_STOPPING.PATIENCE": 0,  # evaluations without a better mIoU after which a training ends; 0: never
    "SOLVER.EARLY_STOPPING.MIN_DELTA": 0.0,  # percent of mIoU that count as better
    "SOLVER.GRADIENT_ACCUMULATION_STEPS": 1,  # parts that a batch of IMS_PER_BATCH is split into
    # Output
    "TRACKERS": [],  # beside tensorboard: "wandb" and "mlflow"
    # Computation
    # "bf16": backbone and head compute in bfloat16 autocast, in training and evaluation, on a CPU or a GPU that has it
    "MODEL.PRECISION": "fp32",
    # in evaluation and prediction on a GPU, mixed precision as SOLVER.AMP.ENABLED is for training: bf16, or fp16 where
    # the GPU has no bf16. FLOAT32_PRECISION "high" makes the products of fp32 quicker instead (TF32)
    "TEST.AMP.ENABLED": False,
    # "default": backbone and head through torch.compile, in training and evaluation; "reduce-overhead": also as CUDA
    # graphs, for evaluation of images of few sizes
    "MODEL.COMPILE": "",
    # parts that compute their activations twice in training, to keep fewer: "res2".."res5" and "pixel_decoder"
    "MODEL.ACTIVATION_CHECKPOINTING": [],
    # Weights
    "MODEL.WEIGHTS_DROP_CLASS_LAYERS": False,  # start training without the class-sized layers of MODEL.WEIGHTS
    # SeMask Swin backbone
    "MODEL.SWIN.PRETRAIN_IMG_SIZE": 224,
    "MODEL.SWIN.PATCH_SIZE": 4,
    "MODEL.SWIN.EMBED_DIM": 96,
    "MODEL.SWIN.DEPTHS": [2, 2, 6, 2],
    "MODEL.SWIN.NUM_HEADS": [3, 6, 12, 24],
    "MODEL.SWIN.WINDOW_SIZE": 7,
    "MODEL.SWIN.MLP_RATIO": 4.0,
    "MODEL.SWIN.QKV_BIAS": True,
    "MODEL.SWIN.QK_SCALE": None,
    "MODEL.SWIN.DROP_RATE": 0.0,
    "MODEL.SWIN.ATTN_DROP_RATE": 0.0,
    "MODEL.SWIN.DROP_PATH_RATE": 0.3,
    "MODEL.SWIN.APE": False,
    "MODEL.SWIN.PATCH_NORM": True,
    "MODEL.SWIN.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.SWIN.USE_CHECKPOINT": False,  # as ACTIVATION_CHECKPOINTING of all four stages
    **semantic_defaults("SWIN"),
    # SeMask Mix Transformer backbone (SegFormer's MiT-B0 by default)
    "MODEL.MIT.EMBED_DIMS": [32, 64, 160, 256],
    "MODEL.MIT.DEPTHS": [2, 2, 2, 2],
    "MODEL.MIT.NUM_HEADS": [1, 2, 5, 8],
    "MODEL.MIT.SR_RATIOS": [8, 4, 2, 1],
    "MODEL.MIT.MLP_RATIO": 4.0,
    "MODEL.MIT.DROP_PATH_RATE": 0.1,
    **semantic_defaults("MIT"),
    # SeMask on a timm backbone
    "MODEL.TIMM.NAME": "",
    "MODEL.TIMM.DROP_PATH_RATE": 0.1,
    **semantic_defaults("TIMM"),
    # Mask models
    "MODEL.MASK_FORMER.DEEP_SUPERVISION": True,
    "MODEL.MASK_FORMER.NO_OBJECT_WEIGHT": 0.1,
    "MODEL.MASK_FORMER.CLASS_WEIGHT": 1.0,
    "MODEL.MASK_FORMER.DICE_WEIGHT": 1.0,
    "MODEL.MASK_FORMER.MASK_WEIGHT": 20.0,
    "MODEL.MASK_FORMER.CATE_WEIGHT": 0.4,  # of the loss on the semantic maps, of mask models and of Semantic FPN
    "MODEL.MASK_FORMER.SEM_LOSS_PER_STAGE": False,  # that loss on each stage's map (their mean), not on the maps' sum
    "MODEL.MASK_FORMER.NHEADS": 8,
    "MODEL.MASK_FORMER.DROPOUT": 0.1,  # of MaskFormer's decoder and of the deformable encoder
    "MODEL.MASK_FORMER.DIM_FEEDFORWARD": 2048,
    "MODEL.MASK_FORMER.ENC_LAYERS": 0,
    "MODEL.MASK_FORMER.DEC_LAYERS": 6,
    "MODEL.MASK_FORMER.PRE_NORM": False,
    "MODEL.MASK_FORMER.HIDDEN_DIM": 256,
    "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": 100,
    "MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE": "res5",
    "MODEL.MASK_FORMER.ENFORCE_INPUT_PROJ": False,
    "MODEL.MASK_FORMER.SIZE_DIVISIBILITY": 32,
    "MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME": "MultiScaleMaskedTransformerDecoder",
    "MODEL.MASK_FORMER.TRAIN_NUM_POINTS": 12544,  # 112 x 112
    "MODEL.MASK_FORMER.OVERSAMPLE_RATIO": 3.0,
    "MODEL.MASK_FORMER.IMPORTANCE_SAMPLE_RATIO": 0.75,
    "MODEL.MASK_FORMER.TEST.SEMANTIC_ON": True,
    "MODEL.MASK_FORMER.TEST.INSTANCE_ON": False,
    "MODEL.MASK_FORMER.TEST.PANOPTIC_ON": False,
    "MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD": 0.0,
    "MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD": 0.0,
    "MODEL.MASK_FORMER.TEST.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE": False,
    # DeepLab's ResNet
    # Detectron2's project DeepLab adds these keys; the backbone build_resnet_deeplab_backbone alone reads them.
    "MODEL.RESNETS.STEM_TYPE": "basic",  # or "deeplab": three convolutions in the place of one
    "MODEL.RESNETS.RES4_DILATION": 1,  # 2 keeps its stride at 8, with a RES5_DILATION of 4
    "MODEL.RESNETS.RES5_MULTI_GRID": [1, 1, 1],  # by which the dilation of each of its blocks is multiplied
    # DeepLab
    # Published files hold these keys, and no model of ours reads them.
    "MODEL.SEM_SEG_HEAD.LOSS_TYPE": "cross_entropy",
    "MODEL.SEM_SEG_HEAD.PROJECT_FEATURES": ["res2"],
    "MODEL.SEM_SEG_HEAD.PROJECT_CHANNELS": [48],
    "MODEL.SEM_SEG_HEAD.ASPP_CHANNELS": 256,
    "MODEL.SEM_SEG_HEAD.ASPP_DILATIONS": [6, 12, 18],
    "MODEL.SEM_SEG_HEAD.ASPP_DROPOUT": 0.1,
    "MODEL.SEM_SEG_HEAD.USE_DEPTHWISE_SEPARABLE_CONV": False,
    # Heads
    "MODEL.SEM_SEG_HEAD.OHEM_PIXELS": 0,  # Semantic FPN: pixels per image that count in loss_ce; 0 for all
    # of the class loss, Semantic FPN's loss and the prior's: K numbers, or ["auto"] by the training set's pixels
    "MODEL.SEM_SEG_HEAD.CLASS_WEIGHTS": [],
    "MODEL.SEM_SEG_HEAD.MASK_DIM": 256,
    "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS": 0,
    "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME": "BasePixelDecoder",
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES": ["res3", "res4", "res5"],
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS": 4,
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS": 8,  # read by no model: heads are NHEADS everywhere
}


def add_semask_config(cfg: CfgNode) -> None:
    """Add the project's keys to a Detectron2 config; keys that it already has keep their values.

    Raises `UserError` if the config is frozen.
    """
    if cfg.is_frozen():
        raise UserError("add_semask_config: the config is frozen and takes no keys; call it before cfg.freeze()")
    for key, value in DEFAULTS.items():
        *sections, leaf = key.split(".")
        node = cfg
        for section in sections:
            node = node.setdefault(section, CfgNode())
        node.setdefault(leaf, copy.deepcopy(value))
