#!/usr/bin/env python3
"""Benchmark of a training step, in seconds and peak memory: standard operators, this project, and a peer.

    python benchmarks/training_step.py [--config-file FILE] [--train full frozen lora] [--precision fp32 bf16]
                                       [--peer transformers] [--size 256] [--batch 2] [--repeats N] [--json FILE]
                                       [KEY VALUE ...]

A step consists of forward pass, matching and losses, backward pass and AdamW, on random images with tiles of ten
classes. `--train` names values of MODEL.BACKBONE.TRAIN. Each variant runs in a separate process. Memory is the peak
resident size beyond the size after the imports, or the largest allocation on a GPU. The peer is transformers'
model of the same config without semantic layers (Mask2Former, MaskFormer or EoMT).
"""

from __future__ import annotations

import argparse
from contextlib import suppress
from functools import partial
from itertools import product
from unittest import mock

import torch
from inference import standard_operators
from processes import Maker, report_processes
from timing import Way, parser
from torch import Tensor
from torch.nn import functional as F

from semask_d2 import build_model, get_cfg
from semask_d2.engine.optimizer import build_optimizer
from semask_d2.modeling.meta_arch import Execution, base

with suppress(ImportError):
    import peft  # noqa: F401 - before memory is measured, because it takes much

CLASSES_SHOWN = 10
TILES = 8  # per side of an image


def batch(size: int, images: int) -> list[dict]:
    """Return random images with labels in tiles."""
    inputs = []
    for _ in range(images):
        tiles = torch.randint(0, CLASSES_SHOWN, (TILES, TILES), dtype=torch.uint8)
        tiles.view(-1)[:CLASSES_SHOWN] = torch.arange(CLASSES_SHOWN)
        labels = tiles.repeat_interleave(size // TILES, 0).repeat_interleave(size // TILES, 1)
        inputs.append({"image": torch.randint(0, 256, (3, size, size), dtype=torch.uint8), "sem_seg": labels})
    return inputs


def training_step(config_file: str, options: list[str], size: int, images: int) -> Way:
    """Return a training step of the project's model."""
    cfg = get_cfg(config_file, options)
    model, execution = build_model(cfg).train(), Execution.from_config(cfg)
    optimizer = build_optimizer(cfg, model)
    inputs = batch(size, images)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with execution.autocast(model):
            losses = model(inputs)
        sum(losses.values()).backward()
        optimizer.step()

    return step


def whole_maps_loss(
    logits: Tensor, labels: Tensor, ignore_label: int, *, align_corners: bool, class_weights: Tensor | None = None
) -> Tensor:
    """Return the mask models' per-pixel loss, with logits resized to the labels and equal class weights."""
    assert class_weights is None
    logits = F.interpolate(logits.float(), size=labels.shape[-2:], mode="bilinear", align_corners=align_corners)
    return F.cross_entropy(logits, labels, ignore_index=ignore_label)


def standard_step(config_file: str, options: list[str], size: int, images: int) -> Way:
    """Return a training step without fast paths, with the per-pixel loss on whole maps."""
    step = training_step(config_file, options, size, images)

    def standard() -> None:
        with standard_operators(), mock.patch.object(base, "pixel_loss", whole_maps_loss):
            step()

    return standard


def main() -> None:
    command_line = parser(__doc__)
    command_line.add_argument("--config-file", default="ade20k/semask_swin_t_m2f.yaml")
    command_line.add_argument("--size", type=int, default=256)
    command_line.add_argument("--batch", type=int, default=2)
    command_line.add_argument("--precision", nargs="+", choices=["fp32", "bf16"], default=["fp32"])
    command_line.add_argument("--train", nargs="+", choices=["full", "frozen", "lora"], default=["full"])
    command_line.add_argument("--peer", nargs="+", choices=["transformers"], default=[])
    command_line.add_argument("settings", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="of the config")
    arguments = command_line.parse_args()
    config, size, images = arguments.config_file, arguments.size, arguments.batch
    settings = arguments.settings
    makers: dict[str, Maker] = {"standard operators": partial(standard_step, config, settings, size, images)}
    for precision, train in product(arguments.precision, arguments.train):
        options = [*settings, "MODEL.PRECISION", precision, "MODEL.BACKBONE.TRAIN", train]
        name = f"this project, {precision}" + ("" if train == "full" else f", {train} backbone")
        makers[name] = partial(training_step, config, options, size, images)
    if arguments.peer:
        import peer_transformers

        name = peer_transformers.peer_name(config, size)
        makers[name] = partial(peer_transformers.training_step, config, size, images)
    report_processes(f"training step, {config}, {images} images of {size} x {size}", makers, arguments)


if __name__ == "__main__":
    main()
