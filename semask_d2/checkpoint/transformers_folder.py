"""Folders of transformers' models: `config.json` beside the weights, as its `save_pretrained` leaves them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from semask_d2.checkpoint.load_report import COMPUTED
from semask_d2.checkpoint.transformers_names import ENCODER, MASK2FORMER, MASKFORMER, State, split_names
from semask_d2.config.transformers_config import names_by_id
from semask_d2.config.transformers_folders import CONFIG, PROCESSOR, read_json
from semask_d2.utils.classes import IGNORED, Classes
from semask_d2.utils.errors import UserError
from semask_d2.utils.files import atomic_write

WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def classes_of_folder(folder: str | os.PathLike) -> Classes:
    """Return the classes of a folder's model, with colors made for them."""
    path = Path(folder, CONFIG)
    config = read_json(path)
    ignored = config.get("ignore_value", IGNORED)
    return Classes.of(names_by_id(config, str(path)), ignore_label=ignored if type(ignored) is int else IGNORED)


def weights_of(folder: str | os.PathLike) -> Path:
    """The weight file of a folder; `UserError` where it has none, or several that belong together."""
    found = [path for name in WEIGHTS if (path := Path(folder, name)).is_file()]
    if not found:
        raise UserError(
            f"{folder}: no {' or '.join(WEIGHTS)} beside its {CONFIG}; of a model in several files, save it in one "
            '(save_pretrained(..., max_shard_size="50GB"))'
        )
    return found[0]


def write_folder(folder: str | os.PathLike, state: State, config: dict[str, Any], processor: dict[str, Any]) -> int:
    """Write a model of ours without semantic layers as a folder that `from_pretrained` loads; its number of tensors.

    `config` is what `config_for_transformers` gives. Raises `UserError` for tensors that transformers has no place for.
    """
    family = {"mask2former": MASK2FORMER, "maskformer": MASKFORMER}[config["model_type"]]
    theirs, homeless = split_names(family, state)
    homeless = [name for name in homeless if not name.endswith(COMPUTED)]
    if homeless:
        raise UserError(f"transformers' {config['model_type']} has no place for {homeless[0]} ({len(homeless)} such)")
    theirs = unused_tensors(config, theirs) | theirs
    tensors = {name: value.contiguous().clone() for name, value in theirs.items()}
    content = safetensors.torch.save(tensors, {"format": "pt"})
    for name, values in ((CONFIG, config), (PROCESSOR, processor)):
        with atomic_write(Path(folder, name)) as file:
            json.dump(values, file, indent=2)
    with atomic_write(Path(folder, WEIGHTS[0]), "wb") as file:
        file.write(content)
    return len(tensors)


def unused_tensors(config: dict[str, Any], theirs: State) -> State:
    """What their models hold besides: the class weights of the loss, and after a Swin a norm that nothing goes through.

    In a ResNet also the counters of batch norms, which `theirs` lack where those are frozen.
    """
    weight = torch.ones(len(config["id2label"]) + 1)
    weight[-1] = config["no_object_weight"]
    unused = {"criterion.empty_weight": weight}
    statistics = [name for name in theirs if name.endswith(".running_mean")]
    unused |= {name.replace("running_mean", "num_batches_tracked"): torch.tensor(0) for name in statistics}
    if "embed_dim" in config["backbone_config"]:
        part = {"mask2former": "swin", "maskformer": "model"}[config["model_type"]]
        dim = 8 * config["backbone_config"]["embed_dim"]
        unused |= {f"{ENCODER}{part}.layernorm.weight": torch.ones(dim)}
        unused |= {f"{ENCODER}{part}.layernorm.bias": torch.zeros(dim)}
    return unused
