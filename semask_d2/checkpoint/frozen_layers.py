"""Checkpoints without frozen layers (MODEL.BACKBONE.SAVE_TRAINED_ONLY), which name the weights that have these.

The record of the backbone's training then has `weights`, the MODEL.WEIGHTS of the training, and the `checksum` of the
frozen layers.
"""

from __future__ import annotations

import logging
import os
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from semask_d2.checkpoint.backbone_training import training_of_file
from semask_d2.checkpoint.hub import repository_of
from semask_d2.checkpoint.readers import PYPI, TIMM
from semask_d2.checkpoint.stems import RGB
from semask_d2.modeling.backbones.base import HierarchicalBackbone
from semask_d2.utils.errors import UserError
from semask_d2.utils.foreign import path

logger = logging.getLogger(__name__)

KEY = "MODEL.BACKBONE.SAVE_TRAINED_ONLY"


def frozen_names(model: nn.Module) -> set[str]:
    """Return the names of the tensors in a model's state dict that a frozen or adapted backbone has from MODEL.WEIGHTS.

    A first convolution of other channels than RGB, which was fitted at the start of training, is not among them.
    """
    backbone = getattr(model, "backbone", None)
    if not isinstance(backbone, nn.Module):
        return set()
    state = backbone.state_dict()
    names = backbone.pretrained_names() if isinstance(backbone, HierarchicalBackbone) else set(state)
    mean = getattr(getattr(model, "normalizer", None), "mean", None)
    channels = RGB if mean is None else len(mean)
    if channels != RGB:
        first = next(name for name, value in state.items() if name in names and value.ndim == 4)
        names.remove(first)
    return {f"backbone.{name}" for name in names}


def frozen_checksum(state: dict[str, Tensor], names: set[str]) -> str:
    """Return a checksum of the floating-point tensors of these names, independent of their precision and device."""
    checksum = 0
    for name in sorted(names & state.keys()):
        if torch.is_floating_point(state[name]):
            content = state[name].detach().to("cpu", torch.float32).contiguous().numpy().tobytes()
            checksum = zlib.crc32(content, zlib.crc32(name.encode(), checksum))
    return f"{checksum:08x}"


def require_nameable(weights: str) -> None:
    """Raise `UserError` unless checkpoints may name `weights` for their frozen layers; see `located`."""
    if not weights:
        raise UserError(f"{KEY}: expected False without MODEL.WEIGHTS, which checkpoints name for their frozen layers")
    if "://" in weights and not weights.startswith((TIMM, PYPI)) and repository_of(weights) is None:
        raise UserError(f"{KEY}: expected a file, timm:// or a repository in MODEL.WEIGHTS, got {weights}; download it")


def absolute(weights: str) -> str:
    """Return the absolute path of an existing file or folder; other sources unchanged."""
    return os.path.abspath(weights) if os.path.exists(weights) else weights


def located(weights: str, source: str) -> str:
    """Return where to read the weights that the checkpoint at `source` names: there, or beside the checkpoint.

    A checkpoint may only name local files and addresses of timm, of installed packages and of the hub.
    """
    beside = Path(source).parent / Path(weights).name
    if "://" not in weights and not os.path.exists(weights) and beside.exists():
        return str(beside)
    require_nameable(weights)
    return weights


def weights_named_in(data: dict[str, Any], source: str) -> str:
    """Return the weights that a checkpoint names for its frozen layers, "" if it has all layers."""
    record = training_of_file(data, source)
    weights = "" if record is None else record.get("weights", "")
    return path(weights, f"{source}: the weights of its frozen layers") if weights else ""


def check_frozen(state: dict[str, Tensor], names: set[str], data: dict[str, Any], source: str, weights: str) -> None:
    """Warn if the frozen layers in `state`, read from `weights`, are not those of the training."""
    record = training_of_file(data, source)
    if record is not None and record.text("checksum") != frozen_checksum(state, names):
        logger.warning(
            "%s: the frozen layers in %s differ from those it was trained with: predictions may be meaningless",
            source,
            weights,
        )
