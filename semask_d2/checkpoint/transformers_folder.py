"""Folders of transformers' models: `config.json` and weights, as written by `save_pretrained`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from semask_d2.checkpoint.class_metadata import METADATA
from semask_d2.checkpoint.eomt_names import EOMT, EOMT_DINOV3, EOMT_GATED, to_eomt
from semask_d2.checkpoint.load_report import COMPUTED
from semask_d2.checkpoint.transformers_names import (
    ENCODER,
    MASK2FORMER,
    MASKFORMER,
    State,
    split_names,
)
from semask_d2.checkpoint.vit_sizes import HEADS
from semask_d2.config.transformers_config import names_by_id
from semask_d2.config.transformers_folders import CONFIG, PROCESSOR, read_json
from semask_d2.config.transformers_vits import heads_of, is_backbone
from semask_d2.utils.classes import IGNORED, Classes
from semask_d2.utils.errors import UserError
from semask_d2.utils.files import atomic_write

FAMILIES = {"mask2former": MASK2FORMER, "maskformer": MASKFORMER, "eomt": EOMT, "eomt_dinov3": EOMT_DINOV3}
WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def metadata_of_folder(folder: str | os.PathLike) -> dict[str, Any]:
    """Return what a folder's `config.json` adds to its weights: the classes, or the number of heads of a ViT alone."""
    path = Path(folder, CONFIG)
    config = read_json(path)
    if not is_backbone(config):
        return {METADATA: classes_of_folder(folder).as_dict()}
    return {HEADS: heads_of(config, str(path))}


def classes_of_folder(folder: str | os.PathLike) -> Classes:
    """Return the classes of a folder's model, with generated colors."""
    path = Path(folder, CONFIG)
    config = read_json(path)
    ignored = config.get("ignore_value", IGNORED)
    return Classes.of(names_by_id(config, str(path)), ignore_label=ignored if type(ignored) is int else IGNORED)


def weights_of(folder: str | os.PathLike) -> Path:
    """Return the weight file of a folder; `UserError` if it has none, or the model is split into several files."""
    files = [path for name in WEIGHTS if (path := Path(folder, name)).is_file()]
    if not files:
        raise UserError(
            f"{folder}: no {' or '.join(WEIGHTS)} beside its {CONFIG}; if the model is in several files, save it in "
            'one (save_pretrained(..., max_shard_size="50GB"))'
        )
    return files[0]


def write_folder(folder: str | os.PathLike, state: State, config: dict[str, Any], processor: dict[str, Any]) -> int:
    """Write one of our models without semantic layers as a folder for `from_pretrained`; return its tensor count.

    `config` is the result of `config_for_transformers`. Raises `UserError` for tensors that transformers' model lacks.
    """
    family = EOMT_GATED if config.get("use_swiglu_ffn") else FAMILIES[config["model_type"]]
    foreign_state, unmatched = split_names(family, state)
    unmatched = [name for name in unmatched if not name.endswith(COMPUTED)]
    if unmatched:
        raise UserError(
            f"transformers' {config['model_type']} has no tensor for {unmatched[0]} ({len(unmatched)} without one)"
        )
    if config["model_type"].startswith("eomt"):
        foreign_state = to_eomt(foreign_state)
    foreign_state = unused_tensors(config, foreign_state) | foreign_state
    tensors = {name: value.contiguous().clone() for name, value in foreign_state.items()}
    content = safetensors.torch.save(tensors, {"format": "pt"})
    for name, values in ((CONFIG, config), (PROCESSOR, processor)):
        with atomic_write(Path(folder, name)) as file:
            json.dump(values, file, indent=2)
    with atomic_write(Path(folder, WEIGHTS[0]), "wb") as file:
        file.write(content)
    return len(tensors)


def unused_tensors(config: dict[str, Any], foreign_state: State) -> State:
    """Return tensors that only transformers' models have: class weights of the loss, and an unused norm after a Swin.

    For a ResNet these include the counters of batch norms, which `foreign_state` lacks if the norms are frozen.
    """
    weight = torch.ones(len(config["id2label"]) + 1)
    weight[-1] = config["no_object_weight"]
    unused = {"criterion.empty_weight": weight}
    statistics = [name for name in foreign_state if name.endswith(".running_mean")]
    unused |= {name.replace("running_mean", "num_batches_tracked"): torch.tensor(0) for name in statistics}
    if "embed_dim" in config.get("backbone_config", {}):
        part = {"mask2former": "swin", "maskformer": "model"}[config["model_type"]]
        dim = 8 * config["backbone_config"]["embed_dim"]
        unused |= {f"{ENCODER}{part}.layernorm.weight": torch.ones(dim)}
        unused |= {f"{ENCODER}{part}.layernorm.bias": torch.zeros(dim)}
    return unused
