"""Checks of settings that no model component checks: solver, data loader, sizes, output."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from semask_d2.d2 import CfgNode
from semask_d2.d2 import get_cfg as get_detectron2_cfg
from semask_d2.modeling.layers.precision import gpu_has_bf16
from semask_d2.utils import foreign
from semask_d2.utils.arguments import value_of
from semask_d2.utils.errors import UserError

logger = logging.getLogger(__name__)

MAX_WORKERS = 1000  # each worker is a process
MAX_SEED = 2**32 - 2**16  # NumPy seeds have 32 bits, and each rank adds its number
MAX_CHANNELS = 1000  # hyperspectral images have hundreds
SMALLEST_SIDE = 16  # of images in TEST.AUG
MAY_BE_INFINITE = ("NORM_TYPE",)  # infinity is the maximum norm of gradients


class Range(NamedTuple):
    """Range of valid values, as a test and in words."""

    holds: Callable[[Any], bool]
    words: str


def at_least(lowest: float) -> Range:
    """Return the range of numbers of at least `lowest`."""
    return Range(lambda value: value >= lowest, f"at least {lowest:g}")


def from_to(lowest: int, highest: int) -> Range:
    """Return the range of numbers from `lowest` to `highest`."""
    return Range(lambda value: lowest <= value <= highest, f"from {lowest} to {highest}")


def one_of(*choices: str) -> Range:
    """Return the range of one of `choices`."""
    return Range(lambda value: value in choices, " or ".join(f'"{choice}"' for choice in choices))


def some_of(*choices: str) -> Range:
    """Return the range of lists of distinct `choices`."""
    listed = ", ".join(f'"{choice}"' for choice in choices)
    return Range(
        lambda value: isinstance(value, (list, tuple)) and len(set(value)) == len(value) and set(value) <= {*choices},
        f"a list of {listed}, or []",
    )


def is_device(name: str) -> bool:
    """Return whether a device of this name is available."""
    kind, _, index = name.partition(":")
    if kind == "cuda":
        return not index or (index.isdigit() and int(index) < max(1, torch.cuda.device_count()))
    return name == "cpu" or (name == "mps" and torch.backends.mps.is_available())


def is_value_range(value: Any) -> bool:
    """Return whether a value is [], or two finite numbers with the second larger."""
    if not isinstance(value, list | tuple) or len(value) not in (0, 2):
        return False
    return all(type(x) in (int, float) and abs(x) < foreign.MAX_NUMBER for x in value) and list(value) == sorted(
        {*value}
    )


def are_test_sides(value: Any) -> bool:
    """Return whether a value is a list of whole numbers of pixels, each of at least `SMALLEST_SIDE`."""
    is_list = isinstance(value, list | tuple) and len(value) > 0
    return is_list and all(type(side) is int and side >= SMALLEST_SIDE for side in value)


NAMES = Range(lambda value: all(isinstance(name, str) for name in value), "names of datasets, such as [toy_scenes_val]")
COMMON: dict[str, Range] = {
    "MODEL.DEVICE": Range(is_device, '"cpu", "cuda" or "cuda:N" of an available GPU'),
    "MODEL.META_ARCHITECTURE": Range(
        lambda name: name != "GeneralizedRCNN",
        "the name of a segmentation model (is _BASE_ missing from the config file?)",
    ),
    "DATASETS.TRAIN": NAMES,
    "DATASETS.TEST": NAMES,
    "DATALOADER.NUM_WORKERS": from_to(0, MAX_WORKERS),
    "SEED": Range(lambda seed: seed <= MAX_SEED, f"at most {MAX_SEED}, or a negative number for a random one"),
    "INPUT.MAX_SIZE_TEST": at_least(1),
    "INPUT.MIN_SIZE_TEST": at_least(0),  # 0 keeps the size of images
    "INPUT.CHANNELS": from_to(1, MAX_CHANNELS),
    "TEST.AUG.MIN_SIZES": Range(
        are_test_sides,
        "shorter sides in pixels, such as [256, 384] (mmsegmentation's ratio 0.5 is half of INPUT.MIN_SIZE_TEST)",
    ),
    "INPUT.VALUE_RANGE": Range(is_value_range, "[], or the values of black and white, such as [0, 4095]"),
    "FLOAT32_PRECISION": one_of("", "highest", "high", "medium"),
    "OUTPUT_DIR": Range(bool, "the name of a folder"),
}
TRAINING: dict[str, Range] = {
    "DATALOADER.RARE_CLASS_TEMPERATURE": at_least(0),
    "SOLVER.MAX_ITER": at_least(1),
    "SOLVER.CHECKPOINT_PERIOD": at_least(1),
    "SOLVER.CHECKPOINTS_KEPT": at_least(0),
    "SOLVER.BASE_LR": at_least(0),
    "SOLVER.EMA.DECAY": Range(lambda value: 0 <= value < 1, "a number of at least 0 and below 1"),
    "SOLVER.EARLY_STOPPING.PATIENCE": at_least(0),
    "SOLVER.EARLY_STOPPING.MIN_DELTA": at_least(0),
    "SOLVER.BACKBONE_MULTIPLIER": at_least(0),
    "SOLVER.SEMANTIC_MULTIPLIER": at_least(0),
    "SOLVER.LAYER_DECAY": Range(lambda value: 0 < value <= 1, "a number above 0 and up to 1"),
    "SOLVER.WEIGHT_DECAY": at_least(0),
    "SOLVER.MOMENTUM": at_least(0),
    "SOLVER.GAMMA": at_least(0),
    "SOLVER.STEPS": Range(lambda steps: list(steps) == sorted({*steps}), "increasing iterations"),
    "SOLVER.WARMUP_ITERS": at_least(0),
    "SOLVER.WARMUP_METHOD": one_of("linear", "constant"),
    "TEST.EVAL_PERIOD": at_least(0),
    "TEST.PICTURES": at_least(0),
    "MODEL.COMPILE": Range(  # CUDA graphs reuse the memory of outputs, which gradients and accumulation still need
        lambda mode: mode != "reduce-overhead", '"" or "default" in training; "reduce-overhead" is for evaluation only'
    ),
    "TRACKERS": some_of("wandb", "mlflow"),
}
# Detectron2's keys without effect here; a value other than the default gets a warning
UNUSED = (
    "DATALOADER.SAMPLER_TRAIN",
    "DATALOADER.REPEAT_THRESHOLD",
    "SOLVER.RESCALE_INTERVAL",
    "TEST.PRECISE_BN.ENABLED",
    "VIS_PERIOD",
)

COMPILERS = ("g++", "clang++", "c++", "cl")


def check_ranges(cfg: CfgNode, ranges: dict[str, Range]) -> None:
    """Raise `UserError` naming the first key whose value is outside its range."""
    for key, allowed in ranges.items():
        value = value_of(cfg, key)
        if not allowed.holds(value):
            raise UserError(f"{key}: expected {allowed.words}, got {value!r}")


def check_values(values: Any, source: str = "", key: str = "") -> None:
    """Raise `UserError` naming `source` and the first key of a config with an unusable value.

    Unusable are numbers that are not finite or exceed 2^53, and strings with null characters.
    """
    if isinstance(values, dict):
        for name, value in values.items():
            check_values(value, source, f"{key}.{name}".lstrip("."))
    elif isinstance(values, list | tuple):
        for value in values:
            check_values(value, source, key)
    elif isinstance(values, str) and "\0" in values:  # file names cannot contain it
        raise UserError(f"{source}{key}: expected a string without null characters, got {foreign.shown(values)}")
    elif type(values) is int:
        foreign.integer(values, f"{source}{key}")
    elif type(values) is float and key.rpartition(".")[2] not in MAY_BE_INFINITE:
        foreign.number(values, f"{source}{key}")


def check_channels(cfg: CfgNode) -> None:
    """Raise `UserError` for numbers of channels that contradict each other."""
    channels = cfg.INPUT.CHANNELS
    for key in ("MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD"):
        if len(numbers := value_of(cfg, key)) != channels:
            raise UserError(
                f"{key}: expected as many numbers as INPUT.CHANNELS, {channels}, got {list(numbers)}; `channels`, "
                "`mean` and `std` in the dataset's file set them (semask init-data measures them)"
            )
    shown = cfg.INPUT.DISPLAY_CHANNELS
    if len(shown) not in (0, 1, 3) or not all(type(x) is int and 0 <= x < channels for x in shown):
        raise UserError(
            f"INPUT.DISPLAY_CHANNELS: expected [], one or three channels from 0 to {channels - 1}, got {list(shown)}"
        )


def check_common(cfg: CfgNode) -> None:
    """Raise `UserError` for settings that are invalid in training and evaluation."""
    check_values(cfg)
    check_ranges(cfg, COMMON)
    check_channels(cfg)
    if cfg.MODEL.COMPILE and not (os.environ.get("CXX") or any(map(shutil.which, COMPILERS))):
        raise UserError(
            f"MODEL.COMPILE: {cfg.MODEL.COMPILE!r} needs a C++ compiler; found none of {', '.join(COMPILERS)} on "
            'the PATH, and CXX is not set; install one, or set it to ""'
        )
    if not cfg.MODEL.DEVICE.startswith("cuda") or not torch.cuda.is_available():
        return
    if cfg.MODEL.PRECISION == "bf16" and not gpu_has_bf16():
        raise UserError(
            f"MODEL.PRECISION: {torch.cuda.get_device_name()} has no bf16 and would emulate it slowly; set it to fp32, "
            "and SOLVER.AMP.ENABLED and TEST.AMP.ENABLED to True for mixed precision in fp16"
        )


def check_training(cfg: CfgNode) -> None:
    """Raise `UserError` for settings that are invalid in training; warn of unused ones."""
    check_common(cfg)
    check_ranges(cfg, TRAINING)
    if cfg.MODEL.BACKBONE.SAVE_TRAINED_ONLY and cfg.MODEL.BACKBONE.TRAIN == "full":
        raise UserError("MODEL.BACKBONE.SAVE_TRAINED_ONLY: expected False with MODEL.BACKBONE.TRAIN full, got True")
    defaults = get_detectron2_cfg()
    for key in UNUSED:
        if value_of(cfg, key) != value_of(defaults, key):
            logger.warning("%s %s has no effect in training", key, value_of(cfg, key))


def check_pretrained(cfg: CfgNode) -> None:
    """Raise `UserError` for a training whose backbone would keep random weights."""
    if cfg.MODEL.BACKBONE.TRAIN in ("frozen", "lora") and not cfg.MODEL.WEIGHTS:
        raise UserError(
            f"MODEL.BACKBONE.TRAIN: {cfg.MODEL.BACKBONE.TRAIN} needs a pretrained backbone, but MODEL.WEIGHTS is empty "
            "and it would stay random; set MODEL.WEIGHTS, or MODEL.BACKBONE.TRAIN full"
        )


def check_evaluation(cfg: CfgNode) -> None:
    """Raise `UserError` for settings that are invalid in evaluation and prediction."""
    check_common(cfg)
