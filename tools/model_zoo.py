#!/usr/bin/env python3
"""Print the table of MODEL_ZOO.md for given configs: parameters, and FLOPs at the training crop, measured by fvcore.

python tools/model_zoo.py configs/ade20k/*.yaml
"""

from __future__ import annotations

import argparse
import logging

import torch
from fvcore.nn import FlopCountAnalysis

from semask_d2 import build_model, get_cfg


class Forward(torch.nn.Module):
    """Forward pass of a model from normalized images (1, 3, H, W) to the outputs of its head."""

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        outputs = self.model.sem_seg_head(self.model.backbone(images))
        return [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)


def attention_flops(inputs: list, outputs: list) -> float:
    """Return the multiply-adds of scaled_dot_product_attention, which fvcore does not know: q k^T, then times v."""
    q, k, v = (value.type().sizes() for value in inputs[:3])
    batch = 1
    for size in q[:-2]:
        batch *= size
    return batch * q[-2] * k[-2] * (q[-1] + v[-1])


def measure(path: str) -> tuple[float, float, tuple[int, int]]:
    """Return millions of parameters, billions of multiply-adds for one image, and the crop (H, W)."""
    cfg = get_cfg(path, ["MODEL.DEVICE", "cpu"])
    height, width = cfg.INPUT.CROP.SIZE
    model = Forward(build_model(cfg).eval())
    analysis = FlopCountAnalysis(model, torch.zeros(1, 3, height, width))
    analysis.set_op_handle("aten::scaled_dot_product_attention", attention_flops)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    parameters = sum(p.numel() for p in model.parameters())
    return parameters / 1e6, analysis.total() / 1e9, (height, width)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("configs", nargs="+", metavar="CONFIG", help="config files")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    for path in arguments.configs:
        with torch.inference_mode(False), torch.no_grad():
            parameters, flops, (height, width) = measure(path)
        print(f"| {path} | {parameters:.1f} | {flops:.0f} | {height} x {width} |", flush=True)


if __name__ == "__main__":
    main()
