"""Writing of weights as safetensors, a format of plain tensors that many tools read and that cannot run code."""

from __future__ import annotations

import json
import os
from typing import Any

import safetensors.torch
from torch import Tensor, nn

from semask_d2.checkpoint.backbone_training import RECORD as TRAINING
from semask_d2.checkpoint.backbone_training import training_of_model
from semask_d2.checkpoint.integrity import NO_CHECKSUM, with_checksum
from semask_d2.checkpoint.semantic_windows import RECORD, windows_of_model
from semask_d2.utils.files import atomic_write


def save_weights(model: nn.Module, path: str | os.PathLike) -> None:
    """Write a model's weights to the safetensors file `path`, with the `header_of` it."""
    write_safetensors(path, model.state_dict(), header_of(model))


def header_of(model: nn.Module) -> dict[str, Any]:
    """Return what a file of a model's weights records: the windows of semantic layers, the backbone's training."""
    return {RECORD: windows_of_model(model), TRAINING: training_of_model(model)}


def write_safetensors(path: str | os.PathLike, state: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Write tensors, and `header` as JSON, to the file `path` atomically."""
    # copies, since safetensors refuses tensors that share memory
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    ours = json.dumps({**header, "checksum": NO_CHECKSUM})
    content = safetensors.torch.save(tensors, {"format": "pt", "semask_d2": ours})
    with atomic_write(path, "wb") as file:
        file.writelines(with_checksum(content))
