"""Complete configs: defaults, then a file over its bases, then options, with every key and type checked."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any

import torch

from semask_d2.config.checks import check_values
from semask_d2.config.custom_data import apply_data
from semask_d2.config.defaults import add_semask_config
from semask_d2.config.finding import configs_folder, find_config
from semask_d2.config.foreign_keys import foreign_hint
from semask_d2.config.switches import warn_of_settings_without_effect
from semask_d2.config.timm_pixels import follow_timm
from semask_d2.config.transformers_folders import is_transformers_folder
from semask_d2.config.yaml_files import Merged, read_yaml
from semask_d2.d2 import CfgNode
from semask_d2.d2 import get_cfg as get_detectron2_cfg
from semask_d2.utils.arguments import value_of
from semask_d2.utils.errors import UserError
from semask_d2.utils.foreign import MAX_NUMBER
from semask_d2.utils.nested import flattened
from semask_d2.utils.registry import suggestion

logger = logging.getLogger(__name__)


def get_cfg(
    config_file: str | os.PathLike | None = None,
    opts: list[str] | tuple[str, ...] = (),
    *,
    data: str | os.PathLike | None = None,
    fit: bool = True,
    trained: bool = False,
) -> CfgNode:
    """Return a complete config: the defaults of Detectron2 and the project, then `config_file`, `data` and `opts`.

    `config_file` is a path, the name of a config of the package ("ade20k/semask_swin_l_m2f.yaml"), or the folder of a
    Mask2Former or MaskFormer of transformers, whose `config.json` is read and whose weights become MODEL.WEIGHTS.
    `data` is a dataset's YAML file, which sets DATASETS, NUM_CLASSES, IGNORE_VALUE (`register_custom` registers the
    dataset) and, unless the config is that of a `trained` model, the channels of images and their mean. `opts`
    alternates keys and values. With `fit` the device defaults to the best one available, and settings that this machine
    does not support (CUDA, SyncBN without CUDA) are replaced with a warning. Raises `UserError` for a missing file, a
    YAML tag, an unknown key, a value of the wrong type or a number that is not finite.
    """
    cfg = get_detectron2_cfg()
    add_semask_config(cfg)
    # Detectron2 keys whose defaults differ in the published models
    cfg.SOLVER.LR_SCHEDULER_NAME, cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "WarmupPolyLR", "full_model"
    if fit:
        cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    layers = merge_file(cfg, config_file) if config_file else {}
    if data:
        apply_data(cfg, data, trained=trained)
    merge_opts(cfg, opts)
    settings = dict(zip(opts[::2], opts[1::2], strict=True))
    follow_timm(cfg, [*layers.values(), settings])
    check_values(cfg)
    if fit:
        fit_to_machine(cfg)
        warn_of_settings_without_effect(cfg, {**settings, **stated_by_user(layers)})
    return cfg


def stated_by_user(layers: dict[Path, dict[str, Any]]) -> dict[str, Any]:
    """Return the values in the user's own config file: the top one, if it has bases and is not of the package."""
    *bases, top = layers or [Path()]
    is_packaged = top.resolve().is_relative_to(configs_folder().resolve())
    return layers[top] if bases and not is_packaged and not is_transformers_folder(top) else {}


def merge_file(cfg: CfgNode, path: str | os.PathLike) -> dict[Path, dict[str, Any]]:
    """Merge a YAML config file into `cfg`, after the files that its `_BASE_` names.

    Returns the files in this order, each with the values that it states, by dotted keys.
    """
    path = find_config(path)
    merged = Merged()
    values = read_yaml(path, chain=(), merged=merged)
    check_keys(cfg, values, str(path))
    try:
        cfg.merge_from_other_cfg(CfgNode(with_floats(cfg, values)))
    except (ValueError, AssertionError) as error:  # a wrong type, or a type that no key has, such as a date
        raise UserError(f"{path}: {explain_type(error)}") from error
    check_values(cfg, f"{path}: ")
    return {file: flattened(part) for file, part in merged.parts[path].items()}


def merge_opts(cfg: CfgNode, opts: list[str] | tuple[str, ...]) -> None:
    """Merge command-line options, alternating keys and values, into `cfg`."""
    if flag := next((word for word in opts if str(word).startswith("--")), None):
        raise UserError(f"settings: {flag} is a flag; flags go before the KEY VALUE settings")
    if joined := next((word for word in opts[::2] if "=" in word), None):
        raise UserError(f"settings: {joined}: write KEY VALUE, with a space between them")
    if len(opts) % 2:
        raise UserError(f"settings: expected KEY VALUE pairs, got an odd number of words: {' '.join(opts)}")
    for key, value in zip(opts[::2], opts[1::2], strict=True):
        nested: Any = value
        for part in reversed(key.split(".")):
            nested = {part: nested}
        check_keys(cfg, nested, "settings")
        try:
            default = value_of(cfg, key)
            whole = isinstance(default, float) and re.fullmatch(r"[+-]?\d+", str(value).strip())
            cfg.merge_from_list([key, f"{value}.0" if whole else value])
        except (ValueError, AssertionError) as error:
            raise UserError(f"settings: {explain_type(error)}") from error


def with_floats(cfg: CfgNode, values: dict) -> dict:
    """Return `values` with integers converted to floats where the config's default is a float (1 becomes 1.0)."""
    result = {}
    for key, value in values.items():
        known = cfg.get(key)
        if isinstance(known, CfgNode) and isinstance(value, dict):
            value = with_floats(known, value)
        elif isinstance(known, float) and type(value) is int and abs(value) < MAX_NUMBER:
            value = float(value)
        result[key] = value
    return result


def explain_type(error: Exception) -> str:
    """Return yacs's message about a value of the wrong type in the user's terms."""
    match = re.fullmatch(
        r"Type mismatch \(<class '(.+)'> vs. <class '(.+)'>\) with values \((.*) vs. (.*)\) for config key: (.*)",
        str(error),
        re.DOTALL,
    )
    if not match:
        return str(error)
    expected, actual, default, value, key = match.groups()
    return f"{key}: expected a value of type {expected}, such as {default}; got {value} ({actual})"


def check_keys(cfg: CfgNode, values: dict, source: str, prefix: str = "") -> None:
    """Raise `UserError` for the first key of `values` that `cfg` does not have, and suggest the closest known key."""
    for key, value in values.items():
        if not isinstance(key, str):
            raise UserError(f"{source}: {prefix}{key}: config keys are words, got {key!r}")
        if key not in cfg:
            if cfg.is_new_allowed():
                continue
            if prefix + key in all_keys(cfg, prefix):  # a dotted key instead of nested sections
                nested = ": {".join(key.split(".")) + ": ..." + "}" * key.count(".")
                raise UserError(f'{source}: "{prefix}{key}" is written with dots; in YAML, sections nest: {nested}')
            near = foreign_hint(key) or suggestion(prefix + key, [prefix + x for x in cfg] + all_keys(cfg, prefix))
            raise UserError(f'{source}: unknown config key "{prefix}{key}".{near or " Correct or remove it."}')
        if isinstance(cfg[key], CfgNode):
            if not isinstance(value, dict):
                raise UserError(f"{source}: {prefix}{key} is a section with keys, got {value!r}")
            check_keys(cfg[key], value, source, f"{prefix}{key}.")
        elif isinstance(value, dict):
            below = next(iter(value), "")
            raise UserError(f'{source}: unknown config key "{prefix}{key}.{below}": {prefix}{key} is not a section')


def all_keys(cfg: CfgNode, prefix: str = "") -> list[str]:
    """Return the dotted names of all leaf keys under `cfg`."""
    return [prefix + key for key in flattened(cfg)]


def fit_to_machine(cfg: CfgNode) -> None:
    """Replace settings that this machine does not support, each with a warning: CUDA, and SyncBN without CUDA.

    Raises `UserError` for a device that PyTorch does not know.
    """
    try:
        torch.device(cfg.MODEL.DEVICE)
    except RuntimeError as error:
        raise UserError(f'MODEL.DEVICE is "{cfg.MODEL.DEVICE}"; expected "cuda", "cuda:N" or "cpu"') from error
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        logger.warning("MODEL.DEVICE is %s, but this machine has no CUDA device: using cpu", cfg.MODEL.DEVICE)
        cfg.MODEL.DEVICE = "cpu"
    for section in ("SEM_SEG_HEAD", "RESNETS"):
        if cfg.MODEL[section].NORM == "SyncBN" and not cfg.MODEL.DEVICE.startswith("cuda"):
            logger.warning("MODEL.%s.NORM is SyncBN, which needs CUDA: using BN", section)
            cfg.MODEL[section].NORM = "BN"
