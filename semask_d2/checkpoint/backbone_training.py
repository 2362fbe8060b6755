"""Records of MODEL.BACKBONE.TRAIN in checkpoints: the mode of the backbone, and its adapters (LoRA).

Neither where semantic layers write to nor the scale of adapters shows in the shapes of tensors, so they are checked
separately. Checkpoints of older versions and of other programs have no record.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, get_args

from torch import Tensor, nn

from semask_d2.checkpoint.semantic_windows import windows_of_model
from semask_d2.modeling.backbones.base import TUNING_KEY, HierarchicalBackbone, Tuning
from semask_d2.modeling.backbones.lora import adapted_layers, is_adapter
from semask_d2.utils.errors import UserError
from semask_d2.utils.foreign import Section

logger = logging.getLogger(__name__)

RECORD = "backbone_training"
MERGE = "semask export --format folder"


def backbone_of(model: nn.Module) -> HierarchicalBackbone | None:
    """Return the backbone of this project in `model`; None if it has none."""
    return next((module for module in model.modules() if isinstance(module, HierarchicalBackbone)), None)


def training_of_model(model: nn.Module) -> dict[str, Any]:
    """Return the record of a model, {} without a backbone of this project; merged adapters give the mode "full"."""
    backbone = backbone_of(model)
    if backbone is None:
        return {}
    if backbone.tuning == "lora" and adapted_layers(backbone):
        return {"mode": "lora", "rank": backbone.lora.rank, "alpha": backbone.lora.alpha}
    return {"mode": "frozen" if backbone.tuning == "frozen" else "full"}


def training_of_file(data: dict[str, Any], source: str) -> Section | None:
    """Return the record of a checkpoint, with a valid mode; None if it has none."""
    if RECORD not in data:
        return None
    record = Section.of(data[RECORD], f"{source}: {RECORD}")
    record.text("mode", "full", choices=get_args(Tuning))
    return record


def check_training_of_backbone(
    source: str, data: dict[str, Any], state: Iterable[str], model: nn.Module, *, training_start: bool
) -> None:
    """Raise `UserError` if a checkpoint needs another MODEL.BACKBONE.TRAIN or other adapters than `model` has.

    `state` are the names of its tensors. A training may start from a checkpoint without adapters, and with semantic
    layers that wrote to other places, which is logged.
    """
    record, ours = training_of_file(data, source), {"mode": "full", **training_of_model(model)}
    in_file = {name for name in state if is_adapter(name)}
    if in_file and ours["mode"] != "lora":
        raise UserError(
            f"{source}: it has adapters: set {TUNING_KEY} lora, and MODEL.BACKBONE.LORA as in their config, "
            f"or merge them with {MERGE}"
        )
    in_model = {name for name in model.state_dict() if is_adapter(name)}
    if in_file:
        check_adapters(source, record, ours, in_file, in_model)
    elif in_model and not training_start:
        raise UserError(f"{source}: these weights have no adapters: set {TUNING_KEY} full")
    side = {"frozen": "the outputs alone", "full": "the next stage too", "lora": "the next stage too"}
    mode = ours["mode"] if record is None else record.text("mode", "full")
    if windows_of_model(model) and side[mode] != side[ours["mode"]]:
        text = (
            f"{source}: its semantic layers wrote to {side[mode]} ({TUNING_KEY} {mode}), those of this config write to "
            f"{side[ours['mode']]}"
        )
        if not training_start:
            raise UserError(f"{text}: set {TUNING_KEY} {mode}")
        logger.warning("%s: they have to learn this anew", text)


def check_adapters(
    source: str, record: Section | None, ours: dict[str, Any], in_file: set[str], in_model: set[str]
) -> None:
    """Raise `UserError` if the adapters of a checkpoint and of the model differ in layers, rank or scale."""
    if in_file != in_model:
        layer = sorted(in_file ^ in_model)[0].split(".lora_")[0]
        raise UserError(
            f"{source}: its adapters are for other layers ({len(in_file) // 2}) than those of the model "
            f"({len(in_model) // 2}): only one of them has {layer}; check MODEL.BACKBONE.LORA.TARGETS and FREEZE_AT"
        )
    if record is None:
        return
    for key in ("rank", "alpha"):
        value = record.number(key, low=0)
        if value != ours[key]:
            raise UserError(
                f"{source}: its adapters have the {key} {value:g}, those of this config {ours[key]:g}: set "
                f"MODEL.BACKBONE.LORA.{key.upper()} {value:g}"
            )


def require_no_adapters(data: dict[str, Any], state: dict[str, Tensor], source: str) -> None:
    """Raise `UserError` for a checkpoint that other programs cannot use: with adapters, or without frozen layers."""
    record = training_of_file(data, source)
    if any(map(is_adapter, state)) or (record is not None and record.get("weights", None)):
        raise UserError(f"{source}: its backbone is frozen or has adapters; first write a plain model with {MERGE}")
