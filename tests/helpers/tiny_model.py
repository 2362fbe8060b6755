"""A model so small that every test can afford it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import semask_d2
from semask_d2.d2 import CfgNode
from tests.helpers.commands import TINY_MODEL, TOY_CONFIG

CLASSES = 6
# two blocks in a stage, so that one has shifted windows; sides that differ, so that no mix-up of them goes unseen
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
    """The config of the toy model, smaller; `options` by their keys with `__` for the dots."""
    wanted = OPTIONS | {key.replace("__", "."): value for key, value in options.items()}
    opts = [text for key, value in wanted.items() for text in (key, value)]
    return semask_d2.get_cfg(TOY_CONFIG, opts)


def randomize(module: nn.Module, std: float = 0.1) -> nn.Module:
    """Make every parameter random, so that none that starts at zero hides a path."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(std * torch.randn_like(parameter))
    return module


def make_inputs(*sizes: tuple[int, int], labels: bool = True) -> list[dict[str, Tensor]]:
    """Random images of these sizes with label tiles, as the mapper gives them."""
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
