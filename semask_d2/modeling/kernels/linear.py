"""Linear layer computed by the fastest available library."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from semask_d2.modeling.kernels.graphs import in_graph

LEAST_TOKENS = {torch.float32: 64, torch.bfloat16: 256}  # with fewer, the overhead outweighs the gain


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute `F.linear` of `x` (..., C) with `weight` (C', C): (..., C').

    Without gradients, products of many tokens on a CPU go to oneDNN's convolution, as a 1x1 convolution of a
    channels-last view; nothing is copied. In fp32 this is for several threads: on two cores of an AMD EPYC with torch
    2.14, inference gains 8 % on two threads and nothing on one; a training step would lose 5 to 12 %. In bf16 it is for
    products with a bias, which `F.linear` first copies into the result: they gain 3 to 13 % on any number of threads.
    """
    needs_gradient = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias))
    if x.device.type != "cpu" or needs_gradient or in_graph():
        return F.linear(x, weight, bias)
    autocast = torch.is_autocast_enabled("cpu")
    if autocast and weight.dtype == torch.bfloat16:
        x = x.bfloat16()
    tokens = x.numel() // max(1, x.shape[-1])
    if x.dtype == torch.bfloat16:
        pays = bias is not None
    else:
        pays = torch.get_num_threads() > 1 and not autocast
    if not pays or x.dtype != weight.dtype or tokens < LEAST_TOKENS.get(x.dtype, tokens + 1):
        return F.linear(x, weight, bias)
    rows = x.reshape(1, tokens, 1, x.shape[-1]).permute(0, 3, 1, 2)  # (1, C, tokens, 1), channels innermost
    y = F.conv2d(rows, weight[:, :, None, None], bias)
    return y.permute(0, 2, 3, 1).reshape(*x.shape[:-1], weight.shape[0])
