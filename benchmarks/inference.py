#!/usr/bin/env python3
"""Inference of a whole model, labels at the image's size: standard operators against the fast paths.

    python benchmarks/inference.py [--config-file FILE] [--size 512] [--repeats N] [--peer] [--json FILE]

The weights are random. `--peer` also times the Mask2Former of the package transformers at the same size (Swin-T, plain
pixel decoder; pip install transformers), its labels included; compare it with a config whose head is m2f.
"""

from __future__ import annotations

from contextlib import ExitStack
from unittest import mock

import torch
import torch.nn.functional as F
from timing import parser, report

from semask_d2 import build_model, get_cfg


def standard_operators() -> ExitStack:
    """Within it no fast path is taken."""
    stack = ExitStack()
    for module in ("deformable_attention.bilinear_gather", "deformable_conv"):
        name = f"semask_d2.modeling.layers.{module}.suits"
        stack.enter_context(mock.patch(name, return_value=False))
    for module in ("linear", "attention"):
        stack.enter_context(mock.patch(f"semask_d2.modeling.layers.{module}.linear", F.linear))
    return stack


def peer(classes: int) -> torch.nn.Module:
    """The Mask2Former of transformers with a Swin-T, its weights random."""
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

    swin = SwinConfig(
        embed_dim=96,
        depths=[2, 2, 6, 2],
        num_heads=[3, 6, 12, 24],
        window_size=7,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    return Mask2FormerForUniversalSegmentation(Mask2FormerConfig(backbone_config=swin, num_labels=classes))


def transformers_model(size: int, classes: int):
    """A function that segments one image with the peer."""
    model = peer(classes).eval()
    image = torch.randn(1, 3, size, size)

    def segment() -> torch.Tensor:
        out = model(pixel_values=image)
        masks = F.interpolate(out.masks_queries_logits, size=(size, size), mode="bilinear", align_corners=False)
        probability = out.class_queries_logits.softmax(-1)[..., :-1]
        return torch.einsum("bqc,bqhw->bchw", probability, masks.sigmoid()).argmax(1)

    return segment


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--config-file", default="ade20k/semask_swin_t_msfapn_m2f.yaml")
    made.add_argument("--size", type=int, default=512)
    made.add_argument("--peer", action="store_true")
    arguments = made.parse_args()
    torch.manual_seed(0)
    cfg = get_cfg(arguments.config_file)
    model = build_model(cfg).eval()
    inputs = [{"image": torch.randint(0, 256, (3, arguments.size, arguments.size), dtype=torch.uint8)}]

    def standard() -> None:
        with standard_operators():
            model.predict_labels(inputs)

    ways = {"standard operators": standard, "fast paths": lambda: model.predict_labels(inputs)}
    if arguments.peer:
        ways["transformers' Mask2Former"] = transformers_model(arguments.size, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)
    with torch.inference_mode():
        report(f"{arguments.config_file}, {arguments.size} x {arguments.size}", ways, arguments)


if __name__ == "__main__":
    main()
