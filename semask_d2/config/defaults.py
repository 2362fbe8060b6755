"""The project's config keys and their defaults, added to Detectron2's own."""

from __future__ import annotations

import copy
from typing import Any

from semask_d2.d2 import CfgNode
from semask_d2.utils.errors import UserError


def semantic_defaults(section: str) -> dict[str, Any]:
    """Return the keys of the semantic layers in the config section of a backbone."""
    return {
        f"MODEL.{section}.SEM_WINDOW_SIZE": 7,
        f"MODEL.{section}.NUM_SEM_BLOCKS": 1,  # 0: the backbone without semantic layers
        f"MODEL.{section}.SEM_WINDOWED_STAGES": [0, 1],  # the other stages attend globally
        f"MODEL.{section}.SEM_INIT": "live",  # or "small" (maps start uniform), or "released" (attention never learns)
        f"MODEL.{section}.SEM_ATTENTION": "pairwise",  # or "scaled" by 1/sqrt(K), or to the image's class "centers"
        f"MODEL.{section}.SEM_RESIDUAL": "normalized",  # or "raw": unnormalized features, and gates that start at 0
    }


# docs/config_reference.md is generated from this table: a comment that starts with a capital is a heading or the text
# below it; any other comment describes the key on its line, or else the next key
DEFAULTS: dict[str, Any] = {
    # Data
    # A custom dataset, described by a file given with --data (semask_d2/config/custom_data.py); NAME "": none
    "DATASETS.CUSTOM.NAME": "",  # its splits are called NAME_train and NAME_val
    "DATASETS.CUSTOM.ROOT": "",  # folder that relative file names refer to
    "DATASETS.CUSTOM.TRAIN.IMAGES": [],  # patterns, folders or files; one .txt file may hold pairs
    "DATASETS.CUSTOM.TRAIN.LABELS": [],
    "DATASETS.CUSTOM.VAL.IMAGES": [],
    "DATASETS.CUSTOM.VAL.LABELS": [],
    "DATASETS.CUSTOM.VAL_FRACTION": 0.0,  # fraction of the training images to use instead of VAL
    "DATASETS.CUSTOM.NAMES": [],
    "DATASETS.CUSTOM.COLORS": [],  # [r, g, b] of each class; []: distinct colors
    "DATASETS.CUSTOM.IGNORE": 255,
    "DATASETS.CUSTOM.MAP": [],  # [id in the label files, class] pairs
    "DATASETS.CUSTOM.RGB": [],  # ["#rrggbb" in the label files, class] pairs
    "DATASETS.CUSTOM.REDUCE_ZERO_LABEL": False,  # ignore id 0 and let id 1 be the first class
    "INPUT.DATASET_MAPPER_NAME": "mask_former_semantic",
    # for mappers with large-scale jitter ("..._lsj"): the side of the square, and the range of scales
    "INPUT.IMAGE_SIZE": 1024,
    "INPUT.MIN_SCALE": 0.1,
    "INPUT.MAX_SCALE": 2.0,
    "INPUT.COLOR_AUG_SSD": False,
    "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA": 1.0,  # largest fraction of a crop that one class may fill
    # channels of images; other numbers than 3 come from TIFF and .npy files, gray images and RGBA, and need as many
    # numbers in MODEL.PIXEL_MEAN and PIXEL_STD. `channels` in a dataset's file sets it
    "INPUT.CHANNELS": 3,
    # channels that are drawn as red, green and blue, or one drawn as gray, counted from 0; []: the first three, or the
    # first one of fewer
    "INPUT.DISPLAY_CHANNELS": [],
    # in images of more than 8 bits, the values of black and white, such as [0, 4095]; []: by the type, [0, 65535] for
    # integers and [0, 1] for floats. `value_range` in a dataset's file sets it
    "INPUT.VALUE_RANGE": [],
    "INPUT.SKIP_UNREADABLE": False,  # skip unreadable images in training
    "INPUT.SIZE_DIVISIBILITY": -1,  # above 0: pad training images to this side (see configs/recipes)
    # above 0 (such as 0.01): sample images and crops with rare classes more often; lower values favor rarer classes
    "DATALOADER.RARE_CLASS_TEMPERATURE": 0.0,
    # Evaluation
    "TEST.SLIDING.ENABLED": False,  # sliding windows for images larger than a window, in evaluation and prediction
    "TEST.SLIDING.SIZE": [0, 0],  # height and width of a window; [0, 0]: INPUT.CROP.SIZE
    "TEST.SLIDING.OVERLAP": 0.33,  # least overlap of neighboring windows, as a fraction of a side
    "TEST.SLIDING.BLENDING": "linear",  # weights that decrease toward the edges of a window, or "mean"
    "TEST.BOUNDARY": False,  # also boundary IoU and trimap IoU, within 2% of the diagonal
    "TEST.SAVE_PREDICTIONS": False,  # write predictions as PNG, in the dataset's submission format
    "TEST.VALIDATION_LOSS": False,  # in training, also compute the training loss on the test sets
    "TEST.PICTURES": 3,  # in training, images drawn after each evaluation, and as many of the worst ones; 0: none
    # Optimization
    "SOLVER.OPTIMIZER": "ADAMW",
    "SOLVER.BACKBONE_MULTIPLIER": 0.1,
    "SOLVER.SEMANTIC_MULTIPLIER": 1.0,  # extra factor of the semantic layers' learning rate, beside BACKBONE_MULTIPLIER
    # the learning rate of the backbone's last block is multiplied by it once, that of each layer below once more, and
    # that of the stem most often; such as 0.8 for ViTs
    "SOLVER.LAYER_DECAY": 1.0,
    "SOLVER.WEIGHT_DECAY_EMBED": 0.0,
    "SOLVER.NORM_PARAMETERS": "modules",  # WEIGHT_DECAY_NORM applies to norm modules, or to "names" that contain "norm"
    "SOLVER.POLY_LR_POWER": 0.9,
    "SOLVER.POLY_LR_CONSTANT_ENDING": 0.0,
    "SOLVER.CHECKPOINTS_KEPT": 3,  # newest checkpoints to keep, beside the best and the final one; 0 keeps all
    "SOLVER.EMA.ENABLED": False,  # also keep and evaluate an exponential moving average of the weights
    "SOLVER.EMA.DECAY": 0.9998,  # weight of the average in each iteration; less at the start of a run
    "SOLVER.EARLY_STOPPING.PATIENCE": 0,  # stop after this many evaluations without a better mIoU; 0: never
    "SOLVER.EARLY_STOPPING.MIN_DELTA": 0.0,  # smallest gain in mIoU (percent) that counts as better
    "SOLVER.GRADIENT_ACCUMULATION_STEPS": 1,  # micro-batches that a batch of IMS_PER_BATCH is split into
    # Output
    "TRACKERS": [],  # beside tensorboard: "wandb" and "mlflow"
    # Computation
    # "bf16": bfloat16 autocast of backbone and head, in training and evaluation, on a CPU or a GPU with bf16. On a CPU,
    # inference casts the weights once; backbones like EfficientNet, which gain nothing, stay in fp32
    "MODEL.PRECISION": "fp32",
    # mixed precision in evaluation and prediction on a GPU, as SOLVER.AMP.ENABLED in training: bf16, or fp16 on GPUs
    # without bf16. Alternatively, FLOAT32_PRECISION "high" speeds up fp32 matrix products (TF32)
    "TEST.AMP.ENABLED": False,
    # "default": compile backbone and head with torch.compile, in training and evaluation; "reduce-overhead": also use
    # CUDA graphs, for evaluation on images of few sizes
    "MODEL.COMPILE": "",
    # parts that recompute activations in training to save memory: "res2".."res5" and "pixel_decoder"
    "MODEL.ACTIVATION_CHECKPOINTING": [],
    # Weights
    "MODEL.WEIGHTS_DROP_CLASS_LAYERS": False,  # do not load the class-sized layers of MODEL.WEIGHTS
    # Backbone
    # "full"; "frozen": pretrained layers stay as they are, and semantic layers are a side network that feeds only the
    # outputs; or "lora": pretrained layers get low-rank adapters (docs/fine_tuning.md)
    "MODEL.BACKBONE.TRAIN": "full",
    "MODEL.BACKBONE.SAVE_TRAINED_ONLY": False,  # leave frozen layers out of checkpoints, which name their MODEL.WEIGHTS
    "MODEL.BACKBONE.LORA.RANK": 8,
    "MODEL.BACKBONE.LORA.ALPHA": 16.0,  # adapters are multiplied by ALPHA / RANK
    "MODEL.BACKBONE.LORA.DROPOUT": 0.0,
    "MODEL.BACKBONE.LORA.TARGETS": [],  # ends of names of linear or convolution layers; []: the attention projections
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
    "MODEL.SWIN.USE_CHECKPOINT": False,  # same as ACTIVATION_CHECKPOINTING of all four stages
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
    "MODEL.TIMM.NAME": "",  # a name of timm.list_models() whose stages form a chain, such as resnet50 or convnext_tiny
    "MODEL.TIMM.DROP_PATH_RATE": 0.1,
    **semantic_defaults("TIMM"),
    # SeMask on a plain ViT of timm; numbers that are 0 are those of the timm model NAME
    "MODEL.VIT.NAME": "",  # a name of timm.list_models() for a plain ViT, such as vit_small_patch16_224
    "MODEL.VIT.OUT_INDICES": [],  # the four blocks whose outputs are used, from 0; []: the last ones of the quarters
    "MODEL.VIT.IMG_SIZE": 0,  # side of the images whose position embeddings are stored (and resampled to any size)
    "MODEL.VIT.PATCH_SIZE": 0,  # a checkpoint's patch kernel is resampled; larger patches are faster, less accurate
    "MODEL.VIT.EMBED_DIM": 0,
    "MODEL.VIT.DEPTH": 0,
    "MODEL.VIT.NUM_HEADS": 0,
    "MODEL.VIT.NORM_EPS": 0.0,
    "MODEL.VIT.DROP_PATH_RATE": 0.1,
    "MODEL.VIT.JOINT_BLOCKS": 0,  # last blocks that belong to the head EncoderOnlyMaskHead, in which queries join them
    **semantic_defaults("VIT"),
    "MODEL.VIT.SEM_WINDOWED_STAGES": [],
    "MODEL.VIT.SEM_RESIDUAL": "raw",  # keeps the scale of the residual stream, which later blocks expect
    # Mask models
    "MODEL.MASK_FORMER.DEEP_SUPERVISION": True,
    "MODEL.MASK_FORMER.NO_OBJECT_WEIGHT": 0.1,
    "MODEL.MASK_FORMER.CLASS_WEIGHT": 1.0,
    "MODEL.MASK_FORMER.DICE_WEIGHT": 1.0,
    "MODEL.MASK_FORMER.MASK_WEIGHT": 20.0,
    "MODEL.MASK_FORMER.CATE_WEIGHT": 0.4,  # weight of the prior loss (on the semantic maps) in all models
    "MODEL.MASK_FORMER.SEM_LOSS_PER_STAGE": False,  # supervise each stage's map (mean loss), not their sum
    "MODEL.MASK_FORMER.NHEADS": 8,
    "MODEL.MASK_FORMER.DROPOUT": 0.1,  # in MaskFormer's decoder and the deformable encoder
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
    # Keys of Detectron2's DeepLab project; only the backbone build_resnet_deeplab_backbone reads them.
    "MODEL.RESNETS.STEM_TYPE": "basic",  # or "deeplab": three convolutions instead of one
    "MODEL.RESNETS.RES4_DILATION": 1,  # 2 keeps the stride at 8; requires RES5_DILATION 4
    "MODEL.RESNETS.RES5_MULTI_GRID": [1, 1, 1],  # factors of the dilation of its blocks
    # DeepLab
    # Published config files have these keys, but no model of this project reads them.
    "MODEL.SEM_SEG_HEAD.LOSS_TYPE": "cross_entropy",
    "MODEL.SEM_SEG_HEAD.PROJECT_FEATURES": ["res2"],
    "MODEL.SEM_SEG_HEAD.PROJECT_CHANNELS": [48],
    "MODEL.SEM_SEG_HEAD.ASPP_CHANNELS": 256,
    "MODEL.SEM_SEG_HEAD.ASPP_DILATIONS": [6, 12, 18],
    "MODEL.SEM_SEG_HEAD.ASPP_DROPOUT": 0.1,
    "MODEL.SEM_SEG_HEAD.USE_DEPTHWISE_SEPARABLE_CONV": False,
    # Heads
    "MODEL.SEM_SEG_HEAD.OHEM_PIXELS": 0,  # Semantic FPN: hardest pixels per image that count in loss_ce; 0: all
    # in the class loss, Semantic FPN's loss and the prior loss: K numbers, or ["auto"] from the training set's pixels
    "MODEL.SEM_SEG_HEAD.CLASS_WEIGHTS": [],
    "MODEL.SEM_SEG_HEAD.MASK_DIM": 256,
    "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS": 0,
    "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME": "BasePixelDecoder",
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES": ["res3", "res4", "res5"],
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS": 4,
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS": 8,  # read by no model; all use MASK_FORMER.NHEADS
}


def add_semask_config(cfg: CfgNode) -> None:
    """Add the project's keys to a Detectron2 config; existing keys keep their values.

    Raises `UserError` if the config is frozen.
    """
    if cfg.is_frozen():
        raise UserError("add_semask_config: the config is frozen; call it before cfg.freeze()")
    for key, value in DEFAULTS.items():
        *sections, leaf = key.split(".")
        node = cfg
        for section in sections:
            node = node.setdefault(section, CfgNode())
        node.setdefault(leaf, copy.deepcopy(value))
