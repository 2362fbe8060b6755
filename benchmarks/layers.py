#!/usr/bin/env python3
"""The fast paths of single layers against standard operators, at the sizes of Swin-T under MSFaPN at 512 x 512.

python benchmarks/layers.py [--repeats N] [--json FILE]
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timing import parser, report
from torch import nn

from semask_d2.modeling.layers import deformable_attention, deformable_conv
from semask_d2.modeling.layers.linear import linear

SIZES = [(16, 16), (32, 32), (64, 64)]


def main() -> None:
    arguments = parser(__doc__).parse_args()
    torch.manual_seed(0)
    tokens = sum(h * w for h, w in SIZES)
    with torch.inference_mode():
        for count, width, out in ((tokens, 256, 256), (tokens, 256, 1024), (16384, 96, 384), (16384, 384, 96)):
            x, weight, bias = torch.randn(count, width), torch.randn(out, width), torch.randn(out)
            ways = {"F.linear": lambda: F.linear(x, weight, bias), "linear": lambda: linear(x, weight, bias)}  # noqa: B023
            report(f"linear layer, {count} tokens, {width} -> {out}", ways, arguments)

        value, locations = torch.randn(1, tokens, 8, 32), torch.rand(1, tokens, 8, 3, 4, 2)
        weights = torch.rand(1, tokens, 8, 3, 4)
        inputs = (value, SIZES, locations, weights)
        ways = {
            "grid_sample": lambda: deformable_attention.sampled_attention(*inputs),
            "gather-and-sum": lambda: deformable_attention.gathered_attention(*inputs),
        }
        report("deformable attention, one layer", ways, arguments)

        x, offsets, mask = torch.randn(1, 256, 128, 128), torch.randn(1, 144, 128, 128), torch.rand(1, 72, 128, 128)
        weight, bias = torch.randn(256, 256, 3, 3), torch.randn(256)
        convolution = (x, offsets, weight, bias, mask)
        ways = {
            "grid_sample": lambda: deformable_conv.sampled_deform_conv2d(*convolution),
            "gather-and-sum": lambda: deformable_conv.gathered_deform_conv2d(*convolution),
        }
        report("deformable convolution, 256 channels at 128 x 128", ways, arguments)

        conv, rows = nn.Conv2d(256, 256, 3, padding=1), torch.randn(1, 256, 128, 128)
        last = rows.to(memory_format=torch.channels_last)
        report("3x3 convolution", {"contiguous": lambda: conv(rows), "channels last": lambda: conv(last)}, arguments)


if __name__ == "__main__":
    main()
