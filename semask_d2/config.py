"""Config keys of the project, and reading configs without executing anything in them."""

from __future__ import annotations

import copy
import logging
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import yaml

from semask_d2.d2 import CfgNode
from semask_d2.d2 import get_cfg as get_detectron2_cfg
from semask_d2.errors import UserError
from semask_d2.registry import suggestion

logger = logging.getLogger(__name__)

BASE_KEY = "_BASE_"
PLAIN_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map")}  # of values that carry none


def semantic_defaults(section: str) -> dict[str, Any]:
    """The keys of the semantic layers in the config section of a backbone."""
    return {
        f"MODEL.{section}.SEM_WINDOW_SIZE": 7,
        f"MODEL.{section}.NUM_SEM_BLOCKS": 1,  # 0: the backbone without SeMask
        f"MODEL.{section}.SEM_WINDOWED_STAGES": [0, 1],  # the others attend globally
        f"MODEL.{section}.SEM_INIT": "live",  # "released" for ablations: its attention never learns
    }


DEFAULTS: dict[str, Any] = {
    # Data
    "INPUT.DATASET_MAPPER_NAME": "mask_former_semantic",
    "INPUT.COLOR_AUG_SSD": False,
    "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA": 1.0,  # no class may fill more than this part of a crop
    "INPUT.SKIP_UNREADABLE": False,  # train on without the images that cannot be read
    "INPUT.SIZE_DIVISIBILITY": -1,  # above 0: training images are padded to this side
    # Optimisation
    "SOLVER.OPTIMIZER": "ADAMW",
    "SOLVER.BACKBONE_MULTIPLIER": 0.1,
    "SOLVER.WEIGHT_DECAY_EMBED": 0.0,
    "SOLVER.POLY_LR_POWER": 0.9,
    "SOLVER.POLY_LR_CONSTANT_ENDING": 0.0,
    "SOLVER.GRADIENT_ACCUMULATION_STEPS": 1,  # parts that a batch of IMS_PER_BATCH is split into
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
    "MODEL.SWIN.USE_CHECKPOINT": False,
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
    "MODEL.MASK_FORMER.CATE_WEIGHT": 0.4,  # of the prior loss
    "MODEL.MASK_FORMER.NHEADS": 8,
    "MODEL.MASK_FORMER.DROPOUT": 0.1,
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
    # Heads
    "MODEL.SEM_SEG_HEAD.OHEM_PIXELS": 0,  # Semantic FPN: pixels per image that count in loss_ce; 0 for all
    "MODEL.SEM_SEG_HEAD.MASK_DIM": 256,
    "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS": 0,
    "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME": "BasePixelDecoder",
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES": ["res3", "res4", "res5"],
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS": 4,
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS": 8,
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


def get_cfg(config_file: str | os.PathLike | None = None, opts: list[str] | tuple[str, ...] = ()) -> CfgNode:
    """A whole config: Detectron2's and the project's defaults, then `config_file`, then `opts` (KEY VALUE ...).

    The device defaults to what the machine has; what it cannot do (CUDA, SyncBN without CUDA) is replaced with a
    warning. Raises `UserError` for a missing file, a YAML tag, an unknown key or a value of the wrong type.
    """
    cfg = get_detectron2_cfg()
    add_semask_config(cfg)
    cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    if config_file:
        merge_file(cfg, config_file)
    merge_opts(cfg, opts)
    fit_to_machine(cfg)
    return cfg


def merge_file(cfg: CfgNode, path: str | os.PathLike) -> None:
    """Merge a YAML config file, and first the ones that its `_BASE_` names, into `cfg`."""
    values = read_yaml(Path(path), chain=())
    check_keys(cfg, values, str(path))
    try:
        cfg.merge_from_other_cfg(CfgNode(values))
    except (ValueError, AssertionError) as error:  # a wrong type; a type that no key has, such as a date
        raise UserError(f"{path}: {explain_type(error)}") from error


def merge_opts(cfg: CfgNode, opts: list[str] | tuple[str, ...]) -> None:
    """Merge command-line options, keys and values in turn, into `cfg`."""
    if len(opts) % 2:
        raise UserError(f"options: expected KEY VALUE pairs, got an odd number of words: {' '.join(opts)}")
    for key, value in zip(opts[::2], opts[1::2], strict=True):
        nested: Any = value
        for part in reversed(key.split(".")):
            nested = {part: nested}
        check_keys(cfg, nested, "options")
        try:
            cfg.merge_from_list([key, value])
        except (ValueError, AssertionError) as error:
            raise UserError(f"options: {explain_type(error)}") from error


def explain_type(error: Exception) -> str:
    """yacs's word on a value of the wrong type, in the user's terms."""
    match = re.fullmatch(
        r"Type mismatch \(<class '(.+)'> vs. <class '(.+)'>\) with values \((.*) vs. (.*)\) for config key: (.*)",
        str(error),
        re.DOTALL,
    )
    if not match:
        return str(error)
    wanted, got, default, value, key = match.groups()
    return f"{key}: expected a value of type {wanted}, such as {default}; got {value} ({got})"


def read_yaml(path: Path, chain: tuple[Path, ...], clean: Callable[[str, Path], str] | None = None) -> dict:
    """The values of a YAML file laid over those of its `_BASE_` (a file or a list of files, later ones on top).

    `chain` are the files that led here; `clean` makes the text of a file of a path free of tags, by default by
    refusing them.
    """
    if path in chain:
        raise UserError(f"{path}: {BASE_KEY} leads back to this file; remove the circle")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        came_from = f" ({BASE_KEY} of {chain[-1]})" if chain else ""
        raise UserError(f"{path}{came_from}: cannot be read as a config file: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file in UTF-8, so no config file") from error
    try:
        values = yaml.safe_load((clean or refuse_tags)(text, path)) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a YAML mapping of config keys, got a {type(values).__name__}")
    bases = values.pop(BASE_KEY, [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise UserError(f"{path}: {BASE_KEY}: expected a file name or a list of them, got {bases!r}")
    merged: dict = {}
    for base in bases:
        merged = overlay(merged, read_yaml((path.parent / os.path.expanduser(base)).resolve(), (*chain, path), clean))
    return overlay(merged, values)


def refuse_tags(text: str, path: Path) -> str:
    """`text`; raises `UserError` naming the key of the first value in it that carries a YAML tag."""
    for key, node in tagged_values(text):
        raise UserError(
            f"{path}: key {key}, line {node.start_mark.line + 1}: the YAML tag {short_tag(node)} is refused, as tags "
            "can run code; write the value out literally, or let tools/convert_config.py do it"
        )
    return text


def tagged_values(text: str) -> Iterator[tuple[str, yaml.Node]]:
    """The values in YAML `text` that carry a tag, each with its dotted key, from top to bottom."""
    seen: set[int] = set()  # an anchor may stand in several places, also within itself

    def walk(node: yaml.Node, key: str) -> Iterator[tuple[str, yaml.Node]]:
        if id(node) in seen:
            return
        seen.add(id(node))
        if node.tag not in PLAIN_TAGS:
            yield key or "(the whole file)", node
        elif isinstance(node, yaml.SequenceNode):
            for item in node.value:
                yield from walk(item, key)
        elif isinstance(node, yaml.MappingNode):
            for name, value in node.value:
                here = ".".join(filter(None, (key, str(name.value) if name.tag in PLAIN_TAGS else "(a key)")))
                yield from walk(name, here)
                yield from walk(value, here)

    root = yaml.compose(text, Loader=yaml.BaseLoader)  # which gives no tags of its own but the plain ones
    if root is not None:
        yield from walk(root, "")


def short_tag(node: yaml.Node) -> str:
    """A node's tag as it is written in files."""
    return node.tag.replace("tag:yaml.org,2002:", "!!")


def overlay(base: dict, values: dict) -> dict:
    """`base` with `values` laid over it, section by section."""
    merged = dict(base)
    for key, value in values.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = overlay(merged[key], value) if both else value
    return merged


def check_keys(cfg: CfgNode, values: dict, source: str, prefix: str = "") -> None:
    """Raise `UserError` naming the first key of `values` that `cfg` does not know, with the nearest one it does."""
    for key, value in values.items():
        if not isinstance(key, str):
            raise UserError(f"{source}: {prefix}{key}: config keys are words, got {key!r}")
        if key not in cfg:
            if cfg.is_new_allowed():
                continue
            near = suggestion(prefix + key, [prefix + known for known in cfg] + all_keys(cfg, prefix))
            raise UserError(f'{source}: unknown config key "{prefix}{key}".{near or " Correct or remove it."}')
        if isinstance(cfg[key], CfgNode):
            if not isinstance(value, dict):
                raise UserError(f"{source}: {prefix}{key} is a section with keys of its own, got {value!r}")
            check_keys(cfg[key], value, source, f"{prefix}{key}.")
        elif isinstance(value, dict):
            below = next(iter(value), "")
            raise UserError(f'{source}: unknown config key "{prefix}{key}.{below}": {prefix}{key} is no section')


def all_keys(cfg: CfgNode, prefix: str = "") -> list[str]:
    """The dotted names of every leaf key under `cfg`."""
    keys: list[str] = []
    for key, value in cfg.items():
        keys += all_keys(value, f"{prefix}{key}.") if isinstance(value, CfgNode) else [prefix + key]
    return keys


def fit_to_machine(cfg: CfgNode) -> None:
    """Replace what this machine cannot do, with a warning for each: CUDA where there is none, SyncBN off CUDA.

    Raises `UserError` for a device that PyTorch does not know.
    """
    try:
        torch.device(cfg.MODEL.DEVICE)
    except RuntimeError as error:
        raise UserError(f'MODEL.DEVICE is "{cfg.MODEL.DEVICE}"; expected "cuda", "cuda:N" or "cpu"') from error
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        logger.warning("MODEL.DEVICE is %s, but this machine has no CUDA device: using cpu", cfg.MODEL.DEVICE)
        cfg.MODEL.DEVICE = "cpu"
    if cfg.MODEL.SEM_SEG_HEAD.NORM == "SyncBN" and not cfg.MODEL.DEVICE.startswith("cuda"):
        logger.warning("MODEL.SEM_SEG_HEAD.NORM is SyncBN, which needs CUDA: using BN")
        cfg.MODEL.SEM_SEG_HEAD.NORM = "BN"
