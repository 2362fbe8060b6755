"""Folders for sharing a model: `config.yaml`, `model.safetensors` with the classes in its header, and a model card.

Weights can be loaded from such a folder as from a run folder, locally or as a repository of the hub.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from semask_d2.checkpoint.class_metadata import METADATA
from semask_d2.checkpoint.hub import CARD_NAME
from semask_d2.checkpoint.model_card import model_card
from semask_d2.checkpoint.saving import header_of, write_safetensors
from semask_d2.checkpoint.transformers_folder import write_folder
from semask_d2.config import get_cfg
from semask_d2.config.transformers_config import config_for_transformers, processor_for_transformers
from semask_d2.d2 import CfgNode
from semask_d2.modeling.backbones.base import TUNING_KEY
from semask_d2.modeling.backbones.lora import merged_adapters
from semask_d2.utils.arguments import value_of
from semask_d2.utils.classes import Classes
from semask_d2.utils.errors import UserError
from semask_d2.utils.files import atomic_write, require_writable
from semask_d2.utils.foreign import MAX_INTEGER
from semask_d2.utils.nested import flattened, set_nested
from semask_d2.utils.runs import CONFIG_NAME, WEIGHTS_NAME

ITERATION = "iteration"  # the last one, in checkpoints and in the header of shared weights
# keys that reveal the machine and the folders of the person who trained the model
PRIVATE = ("OUTPUT_DIR", "DATASETS.CUSTOM.", "MODEL.WEIGHTS", "MODEL.DEVICE", "TRACKERS", "DATALOADER.NUM_WORKERS")
OF_ADAPTERS = ("MODEL.BACKBONE.LORA.", "MODEL.BACKBONE.SAVE_TRAINED_ONLY")  # which are merged, in complete weights


@dataclass(frozen=True)
class ModelDescription:
    """A shared model without its weights: config, classes, and metrics in percent by dataset and name.

    `iterations` is the number of training iterations of the run that wrote the weights; None if no run did.
    """

    cfg: CfgNode
    classes: Classes
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    iterations: int | None = None


def write_shared_folder(
    folder: str | os.PathLike,
    model: nn.Module,
    description: ModelDescription,
    *,
    license: str | None = None,
    half: bool = False,
) -> None:
    """Write the model's files into `folder`, each atomically; existing files of these names are replaced.

    Adapters (LoRA) are merged: the files are those of a plain model, with MODEL.BACKBONE.TRAIN full.
    `license` is an identifier that the hub knows, such as "apache-2.0", for the model card. `half` writes half
    precision.
    """
    folder = Path(folder)
    require_writable(folder, "save_pretrained")
    with merged_adapters(model):
        header = {**header_of(model), METADATA: description.classes.as_dict()}
        state = model.state_dict()
    if description.iterations is not None:
        header[ITERATION] = description.iterations - 1
    if half:
        state = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    write_safetensors(folder / WEIGHTS_NAME, state, header)
    card = model_card(
        description.cfg,
        description.classes.names,
        name=folder.resolve().name,
        metrics=description.metrics,
        iterations=description.iterations,
        license=license,
    )
    for file_name, text in ((CONFIG_NAME, shared_config(description.cfg)), (CARD_NAME, card)):
        with atomic_write(folder / file_name) as file:
            file.write(text)


def write_transformers_model(folder: str | os.PathLike, model: nn.Module, cfg: CfgNode, classes: Classes) -> None:
    """Write a Mask2Former or MaskFormer on Swin or ResNet without semantic layers as a folder of transformers.

    Raises `UserError`, naming the key, for a model that transformers does not have.
    """
    if os.path.lexists(Path(folder, CONFIG_NAME)):
        raise UserError(f"{os.fspath(folder)}: it holds a model of this project ({CONFIG_NAME}); name another folder")
    settings = config_for_transformers(cfg, classes.names)
    require_writable(Path(folder), "folder")
    with merged_adapters(model):
        state = model.state_dict()
    write_folder(folder, state, settings, processor_for_transformers(cfg))


def iterations_of(data: Mapping[str, Any]) -> int | None:
    """Return the number of training iterations that a checkpoint records; None if it records none."""
    last = data.get(ITERATION)
    return last + 1 if type(last) is int and 0 <= last <= MAX_INTEGER else None


def shared_config(cfg: CfgNode) -> str:
    """Return the non-default values of a config as YAML, without values that are private to its machine."""
    defaults = get_cfg(fit=False)
    values: dict[str, Any] = {"VERSION": cfg.VERSION}
    custom = cfg.DATASETS.CUSTOM.NAME
    for key, value in flattened(cfg).items():
        if key.startswith((*PRIVATE, *OF_ADAPTERS)) or value == value_of(defaults, key):
            continue
        if (key, value) == (TUNING_KEY, "lora"):
            continue
        if custom and key in ("DATASETS.TRAIN", "DATASETS.TEST"):  # these names are registered on this machine only
            continue
        set_nested(values, key, list(value) if isinstance(value, tuple) else value)
    if custom:
        values.setdefault("DATASETS", {}).update({"TRAIN": [], "TEST": []})
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
