"""A model small enough for every test."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import semask_d2
from semask_d2.d2 import CfgNode
from tests.helpers.commands import TINY_MODEL, TOY_CONFIG

CLASSES = 6
# two blocks per stage, so that one has shifted windows; unequal sides, so that swapping them is noticed
OPTIONS = TINY_MODEL | {
    "MODEL.SWIN.DEPTHS": [1, 2, 1, 1],
    "MODEL.SWIN.NUM_HEADS": [1, 2, 2, 4],
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": CLASSES,
    "MODEL.SEM_SEG_HEAD.MASK_DIM": 16,
    "MODEL.MASK_FORMER.DIM_FEEDFORWARD": 48,
    "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": 8,
    "MODEL.MASK_FORMER.DEC_LAYERS": 5,
    "MODEL.MASK_FORMER.TRAIN_NUM_POINTS": 64,
}


def tiny_cfg(**options: object) -> CfgNode:
    """Return a smaller config of the toy model; keyword `options` are keys with `__` instead of dots."""
    settings = OPTIONS | {key.replace("__", "."): value for key, value in options.items()}
    opts = [text for key, value in settings.items() for text in (key, value)]
    return semask_d2.get_cfg(TOY_CONFIG, opts)


def randomize(module: nn.Module, std: float = 0.1) -> nn.Module:
    """Make every parameter random, because parameters that start at zero would hide a path."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(std * torch.randn_like(parameter))
    return module


def make_inputs(*sizes: tuple[int, int], labels: bool = True) -> list[dict[str, Tensor]]:
    """Return random images of these sizes with label tiles, in the mapper's format."""
    inputs = []
    for height, width in sizes:
        inputs.append({"image": torch.randint(0, 256, (3, height, width), dtype=torch.uint8)})
        if labels:
            ids = torch.randint(0, CLASSES, (-(-height // 16), -(-width // 16)), dtype=torch.uint8)
            ids = ids.repeat_interleave(16, 0).repeat_interleave(16, 1)[:height, :width].clone()
            ids[:4] = 255
            inputs[-1]["sem_seg"] = ids
    return inputs


def backbone_features(model: nn.Module, inputs: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The features of the padded batch, as a model's head takes them."""
    images = model.normalizer([x["image"] for x in inputs], model.size_divisibility)
    return model.backbone(images.tensor)
