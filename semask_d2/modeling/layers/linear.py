"""A linear layer by the library that is fastest at it."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAST_TOKENS = 64  # below, the detour costs more than it saves


@cache
def on_amd() -> bool:
    """Whether the processor is one of AMD's."""
    try:
        name = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # another system than Linux
        name = platform.processor()
    return "AuthenticAMD" in name


def in_graph() -> bool:
    """Whether a graph is being made: compiled, exported or traced. Graphs hold standard operators alone."""
    tracing = torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage] - it is public
    return tracing or torch.compiler.is_compiling()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear` of `x` (..., C) with `weight` (C', C): (..., C').

    On AMD's processors, fp32 products of many tokens go to oneDNN, as a 1x1 convolution of a channels-last view: it is
    there up to twice as fast as the library that `F.linear` calls. On Intel's it is as fast forward and slower in the
    backward pass, so there `F.linear` stays. Nothing is copied.
    """
    tokens = x.numel() // max(1, x.shape[-1])
    suits = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and tokens >= LEAST_TOKENS
    if in_graph() or not (suits and on_amd()) or torch.is_autocast_enabled("cpu"):  # no graph can ask for the processor
        return F.linear(x, weight, bias)
    rows = x.reshape(1, tokens, 1, x.shape[-1]).permute(0, 3, 1, 2)  # (1, C, tokens, 1), channels innermost
    y = F.conv2d(rows, weight[:, :, None, None], bias)
    return y.permute(0, 2, 3, 1).reshape(*x.shape[:-1], weight.shape[0])


class Linear(nn.Linear):
    """torch's linear layer through `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., C) -> (..., C')."""
        return linear(input, self.weight, self.bias)
