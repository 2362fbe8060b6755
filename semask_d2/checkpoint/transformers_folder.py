"""Folders of transformers' models: `config.json` beside the weights, as its `save_pretrained` leaves them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from semask_d2.checkpoint.report import COMPUTED
from semask_d2.checkpoint.transformers_names import ENCODER, MASK2FORMER, MASKFORMER, split_names
from semask_d2.config.transformers_config import class_names
from semask_d2.utils.errors import UserError
from semask_d2.utils.files import atomic_write
from semask_d2.utils.runs import CONFIG_NAME
from semask_d2.utils.visualization import distinct_colors

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
MAX_CONFIG = 2**24  # bytes


def is_transformers_folder(path: str | os.PathLike) -> bool:
    """Whether a folder holds a `config.json` and is no run of ours."""
    return Path(path, CONFIG).is_file() and not Path(path, CONFIG_NAME).exists()


def metadata_of_folder(folder: str | os.PathLike) -> dict[str, Any]:
    """Names of the classes, colors made for them, and the ignored id, as our checkpoints record them."""
    config = read_json(Path(folder, CONFIG))
    names = class_names(config)
    colors = [list(color) for color in distinct_colors(len(names))]
    ignored = config.get("ignore_value", 255)
    return {"class_names": names, "class_colors": colors, "ignore_label": ignored if type(ignored) is int else 255}


def weights_of(folder: str | os.PathLike) -> Path:
    """The weight file of a folder; `UserError` where it has none, or several that belong together."""
    found = [path for name in WEIGHTS if (path := Path(folder, name)).is_file()]
    if not found:
        raise UserError(
            f"{folder}: no {' or '.join(WEIGHTS)} beside its {CONFIG}; of a model in several files, save it in one "
            '(save_pretrained(..., max_shard_size="50GB"))'
        )
    return found[0]


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds. Raises `UserError` where it holds none."""
    try:
        if path.stat().st_size > MAX_CONFIG:
            raise ValueError(f"larger than {MAX_CONFIG} bytes")
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: no JSON of a model's settings: {str(error) or type(error).__name__}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected settings by name, got a {type(value).__name__}")
    return value


def write_folder(
    folder: str | os.PathLike, state: dict[str, Tensor], config: dict[str, Any], processor: dict[str, Any]
) -> int:
    """Write a model of ours without semantic layers as a folder that `from_pretrained` loads; its number of tensors.

    `config` is what `config_for_transformers` gives. Raises `UserError` for tensors that transformers has no place for.
    """
    family = {"mask2former": MASK2FORMER, "maskformer": MASKFORMER}[config["model_type"]]
    theirs, homeless = split_names(family, state)
    homeless = [name for name in homeless if not name.endswith(COMPUTED)]
    if homeless:
        raise UserError(f"transformers' {config['model_type']} has no place for {homeless[0]} ({len(homeless)} such)")
    theirs |= unused_tensors(config)
    tensors = {name: value.contiguous().clone() for name, value in theirs.items()}
    content = safetensors.torch.save(tensors, {"format": "pt"})
    for name, values in ((CONFIG, config), (PROCESSOR, processor)):
        with atomic_write(Path(folder, name)) as file:
            json.dump(values, file, indent=2)
    with atomic_write(Path(folder, WEIGHTS[0]), "wb") as file:
        file.write(content)
    return len(tensors)


def unused_tensors(config: dict[str, Any]) -> dict[str, Tensor]:
    """What their models hold besides: a norm that nothing goes through, and the class weights of the loss."""
    norm = {"mask2former": f"{ENCODER}swin.layernorm", "maskformer": f"{ENCODER}model.layernorm"}[config["model_type"]]
    dim = 8 * config["backbone_config"]["embed_dim"]
    weight = torch.ones(len(config["id2label"]) + 1)
    weight[-1] = config["no_object_weight"]
    return {f"{norm}.weight": torch.ones(dim), f"{norm}.bias": torch.zeros(dim), "criterion.empty_weight": weight}
